"""What surrounds a generated key policy: comparison with a live key, putting it, explaining it, other
notations.
"""
