"""A test set scored, measured and read back."""
