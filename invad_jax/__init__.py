"""invad_jax: image anomaly detection by diffusion inversion, in JAX.

Importing the package touches no device. Read `eval`, `detector`, `diffusion.inversion`, `scoring`
and `metrics`, in that order, for the whole method.
"""

__version__ = "0.1.0"
