"""The members file, ``quorum.toml``: what it says (``file``) and which version is in force (``chain``)."""
