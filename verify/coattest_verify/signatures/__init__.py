"""Keys and signatures: members' keys (``keys``) and DSSE envelopes (``dsse``)."""

from coattest_verify.signatures.dsse import DsseEnvelope, sign_envelope
from coattest_verify.signatures.keys import BadKey, PublicKey, load_public, load_signer

__all__ = ["BadKey", "DsseEnvelope", "PublicKey", "load_public", "load_signer", "sign_envelope"]
