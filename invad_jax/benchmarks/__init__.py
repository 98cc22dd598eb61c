"""How fast a detector is on the devices that are here, and how near to what they can do."""
