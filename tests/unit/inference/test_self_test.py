"""The warning of a jaxlib that is wrong, and its price on one that is not."""

import importlib.metadata

import jax
import pytest

from invad_jax.inference import self_test


@pytest.fixture(autouse=True)
def anew():
    self_test.warn_if_wrong.cache_clear()


def of_version(monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)


def test_this_jaxlib_is_right():
    assert self_test.reduces_rightly()


def test_other_releases_are_not_tested_at_all(monkeypatch, caplog):
    monkeypatch.setattr(jax, "jit", None)
    for version in ("0.10.1", "0.10.3", "0.12.0"):
        of_version(monkeypatch, version)
        self_test.warn_if_wrong.cache_clear()
        self_test.warn_if_wrong()
    assert caplog.text == ""


@pytest.mark.parametrize("right", [True, False])
def test_the_suspect_one_is_named_where_it_is_wrong(monkeypatch, right):
    of_version(monkeypatch, "0.10.2")
    monkeypatch.setattr(self_test, "reduces_rightly", lambda: right)
    said = []
    monkeypatch.setattr(self_test.log, "warning", lambda text, *values: said.append(text % values))
    self_test.warn_if_wrong()
    assert [line[:36] for line in said] == (
        [] if right else ["jaxlib 0.10.2 computes wrong values "]
    )
