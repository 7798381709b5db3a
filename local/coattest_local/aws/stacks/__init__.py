"""CloudFormation and EC2 for a deployment: moto's state, and what moto's CloudFormation lacks."""
