"""The program that runs inside the enclave, and in ``protocol`` the messages it shares with the outside.

It imports nothing else of ours: this folder and its locked dependencies are all that a reviewer has to read.
"""
