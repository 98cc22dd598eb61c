"""Oracles that several parity tests share."""

import sys
from types import ModuleType
from unittest import mock

import pytest


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """The timm library, whose networks need torch only, though its import asks for torchvision."""
    pytest.importorskip("torch", reason="the oracle needs torch")
    names = ["", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets"]
    stand_ins = {f"torchvision{name}": mock.MagicMock() for name in names}
    kept = {name: module for name, module in sys.modules.items() if name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        import timm
    except ImportError as error:
        pytest.skip(f"timm cannot be imported: {error}")
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(kept)
    return timm
