"""Style `coattest`: a container image with our kernel and init."""
