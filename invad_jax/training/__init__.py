"""Steps, losses and the loop around them."""
