"""The page of a line, and its JSON interface."""
