"""The machinery below the decision: strict parsing, envelopes, results, the policy chain and the count."""
