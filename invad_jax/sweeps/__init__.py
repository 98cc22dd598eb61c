"""A grid of options over seeds: its cells and its table."""
