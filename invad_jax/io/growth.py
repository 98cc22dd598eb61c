"""How large what a file holds may be beside the file."""

from invad_jax.errors import UserError

MAX_GROWTH, MAX_GROWN = 20, 2**24
"""Tensors may be so many times larger than their file, and beside that by so many bytes: weights
hardly compress, and tensors that share memory are few."""


def check_growth(size: int, file_size: int) -> None:
    """Raises UserError for tensors of `size` bytes that a file of `file_size` cannot honestly hold.

    To be asked before anything is allocated.
    """
    if size > MAX_GROWTH * file_size + MAX_GROWN:
        raise UserError(
            f"refused: {size / 1e6:.0f} MB of tensors in a file of {file_size / 1e6:.3g} MB"
        )
