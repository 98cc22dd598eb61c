"""The version, where neither a build nor a report has to import anything else."""

__version__ = "0.1.0"
