"""What every room but the enclave's shares: errors, findings, console, progress, files, strict JSON."""

__version__ = "0.1.0"
