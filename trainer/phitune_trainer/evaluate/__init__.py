"""Scoring held-out samples: the model answers them, the answers are compared."""
