"""Auto Scaling: moto's groups, whose instances boot, run enclaves and are replaced as on AWS."""
