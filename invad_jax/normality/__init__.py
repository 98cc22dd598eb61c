"""What normal images teach: Gaussians, mixtures, a memory bank, clusters, the calibration."""
