"""The members file: who decides, and which version of it is in force."""
