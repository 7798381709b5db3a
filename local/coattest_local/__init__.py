"""Everything that AWS provides, simulated on one machine; no other room imports it.

``aws`` serves KMS, S3, CloudFormation and more; ``host`` runs an image's application beside a simulated NSM;
``qemu`` boots the whole image; ``demo`` runs the chain from source to receipt on them. Nothing here protects
anything: the keys of its authorities are published.
"""
