"""What the publisher and members state about a release: claim, signed rebuilds, commitments and votes."""
