"""The buyer's side: rebuild, sign, decide, and check what others claim."""
