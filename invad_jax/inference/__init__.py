"""A trained detector on this machine's devices: assembled, loaded, compiled, calibrated."""
