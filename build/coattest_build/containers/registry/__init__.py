"""Container images straight from a registry, by digest."""
