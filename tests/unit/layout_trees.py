"""Trees of empty files, and what the layouts make of them."""

import pytest

from invad_jax.config import DataConfig
from invad_jax.data.layouts import load_dataset
from invad_jax.errors import UserError


def make(root, *names):
    """Empty files below `root`; returns `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def load(name, root, *categories):
    """The data set of a layout; all categories unless some are named."""
    return load_dataset(
        DataConfig(name=name, root=str(root) if root else "", categories=categories or ("all",))
    )


def refusal(name, root, *categories):
    """The message with which `load` refuses, which is one line."""
    with pytest.raises(UserError) as error:
        load(name, root, *categories)
    message = str(error.value)
    assert "\n" not in message
    return message
