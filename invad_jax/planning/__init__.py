"""What a TPU slice would do with an experiment: programs, FLOPs, collectives."""
