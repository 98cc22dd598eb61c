"""Processes, devices, command line, checkpoints, workdirs."""
