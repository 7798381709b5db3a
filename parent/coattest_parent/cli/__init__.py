"""The command lines of ``auction`` and ``deploy-from-attestation``, one module per verb."""
