"""Stage 1: files -> samples (`layouts`) -> uint8 images (`preprocess`) -> batches (`pipeline`).

NumPy, grain and PIL only. Normalisation belongs to the encoder, which knows its own constants.
"""
