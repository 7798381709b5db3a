"""The messages of buyers, parent and enclave: canonical CBOR, COSE, manifest, seal, bid, result, frames."""
