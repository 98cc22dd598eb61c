"""Others are silent while we ask them, and speak again afterwards."""

import logging

import pytest

from invad_jax.runtime import log


def test_quiet_is_for_a_while(caplog):
    others = logging.getLogger("absl")
    before = others.level
    with log.quiet():
        others.warning("within")
    assert others.level == before
    others.error("after")
    assert "within" not in caplog.text


def test_quiet_ends_with_an_error():
    before = logging.getLogger("absl").level
    with pytest.raises(KeyError), log.quiet():
        {}["absent"]
    assert logging.getLogger("absl").level == before
