"""Pages that are asked for a second time, counted."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
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
PAGES = 2**26 // 4096


def faults(how, **environment):
    command = [sys.executable, "-c", FAULTS, how]
    environment = os.environ | environment
    return int(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_freed_is_not_asked_for_again():
    assert faults("given back") >= PAGES
    assert faults("kept") < PAGES / 100
    assert faults("kept", MALLOC_ARENA_MAX="2") >= PAGES  # the user has decided
