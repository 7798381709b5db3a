"""The whole chain on one machine, told step by step: `nitro-local demo`."""
