"""The command lines ``auction`` and ``deploy-from-attestation``, one module per verb."""
