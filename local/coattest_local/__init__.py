"""Everything AWS provides, simulated on one machine. Nothing here is trusted by, or imported from, the product."""
