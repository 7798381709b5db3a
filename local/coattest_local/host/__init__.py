"""A software Nitro host: it measures and runs an image, and signs as the NSM under a test CA."""
