"""A Ctrl-C that nothing can catch, or that a callback has dropped."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from invad_jax.runtime import interrupt


def test_an_uncaught_one_is_one_line_and_other_errors_are_whole(capsys):
    interrupt._say(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "interrupted\n"
    interrupt._say(ValueError, ValueError("odd"), None)
    assert "ValueError: odd" in capsys.readouterr().err


def test_a_dropped_one_comes_again():
    interrupt._raise_again(SimpleNamespace(exc_type=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        time.sleep(10)


def test_a_command_has_the_hooks_and_a_program_that_imports_the_package_has_not():
    program = "import sys, invad_jax; print(sys.excepthook is sys.__excepthook__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n"
    program = "import sys; sys.argv[0] = '-m'; import invad_jax; print(sys.excepthook.__module__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "invad_jax.runtime.interrupt\n"
