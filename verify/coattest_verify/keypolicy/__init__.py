"""A KMS key policy under which only decided enclaves decrypt.

``generate`` makes it from decisions, ``snippets`` writes it for CloudFormation and Terraform, ``live`` and
``compare`` put it on a key and find differences, ``explain`` and ``prove`` show what any policy allows, by
the semantics in ``iam``, and ``leaks`` what it would let past one enclave.
"""
