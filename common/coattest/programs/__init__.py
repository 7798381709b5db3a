"""Starts every other program, and says where those and coattest itself may come from.

``start.run_program([find_program("nitro-cli"), "describe-enclaves"])`` waits for the end and gives code and
output; ``run_program(python_program("pip", "download"))`` runs a module (``environment`` finds both). Nothing
else in the source starts a process (tests/hostile/test_one_place_starts_programs.py). ``apart`` refuses a
coattest that lies in what it is to judge.
"""
