"""Pages that are asked for a second time, counted."""

import os
import platform
import resource
import subprocess
import sys

import pytest

from invad_jax.runtime import allocator

FAULTS = """
import ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a page is a page
from invad_jax.runtime import allocator
if sys.argv[1] == "kept":
    allocator.keep_freed()
def filled():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
filled()
print(filled())
"""
PAGES = 2**26 // resource.getpagesize()


def faults(how, **environment):
    command = [sys.executable, "-c", FAULTS, how]
    inherited = {k: v for k, v in os.environ.items() if k not in allocator.OF_THE_USER}
    environment = inherited | {"JAX_PLATFORMS": "cpu"} | environment
    return int(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_freed_is_not_asked_for_again():
    assert faults("given back") >= PAGES
    assert faults("kept") < PAGES / 100
    assert faults("kept", MALLOC_ARENA_MAX="2") >= PAGES  # the user has decided
    assert faults("kept", JAX_PLATFORMS="cuda,cpu") >= PAGES


def test_a_machine_with_an_accelerator_is_known_by_its_files(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(allocator, "ACCELERATORS", (f"{tmp_path}/nvidia[0-9]*",))
    (tmp_path / "nvidiactl").touch()
    assert allocator._on_cpu()
    (tmp_path / "nvidia0").touch()
    assert not allocator._on_cpu()


@pytest.mark.parametrize("main", ["train", "train_vae"])
@pytest.mark.parametrize("more", [[], ["--distributed"]])
def test_a_training_asks_before_jax_is_there(main, more):
    code = (
        "import sys\n"
        f"from invad_jax import {main}\n"
        f"{main}.allocator.keep_freed = lambda: print('jax' in sys.modules)\n"
        f"{main}.cli(sys.argv[1:])"
    )
    given = [sys.executable, "-c", code, "--config", "none.py", *more]
    assert subprocess.run(given, capture_output=True, text=True).stdout == "False\n"
