"""Systems Manager's RunCommand on a pretended parent instance, with a stand-in for nitro-cli there."""
