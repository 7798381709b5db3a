"""What members and buyers do themselves, and every check: rebuild, sign, decide, bid, verify what others say.

``attestation`` verifies documents, ``quorum`` decides, ``rebuild`` is a member's work, ``keypolicy`` and
``audit`` are about KMS keys, ``auction`` has the buyer's tools and the receipt, ``cli`` the commands.
"""
