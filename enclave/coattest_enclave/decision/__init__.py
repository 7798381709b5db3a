"""What is done with amounts: ``auction`` has the rules, ``lanes`` the arithmetic, ``turns`` the clock."""
