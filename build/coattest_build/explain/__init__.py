"""What is in an image and why two differ: describe, diff, SBOM."""
