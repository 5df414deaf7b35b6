"""The gates before a promotion: a new release beside the one that it would replace."""
