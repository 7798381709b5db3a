"""Everything AWS provides, simulated on one machine. The product imports nothing from here."""
