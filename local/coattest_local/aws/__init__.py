"""AWS on this machine: moto's state, behind the checks that moto does not make.

``services.start`` runs KMS, S3, STS, IAM, CloudFormation, EC2 and Auto Scaling as a process on a loopback
port. Every request is authenticated (SigV4) and authorised (``coattest_verify.keypolicy.iam``) before it
reaches a back end; KMS's cryptographic operations are answered here and not by moto. docs/emulation.md lists
each behaviour and its source. ``services`` does not import moto; the other modules do.
"""
