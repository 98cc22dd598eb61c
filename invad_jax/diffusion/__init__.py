"""The mathematics of diffusion. Takes an `eps_fn`; knows no network, no file, no device.

Read `schedule` (which noise levels), `inversion` (data to noise), `loss` (training).
"""
