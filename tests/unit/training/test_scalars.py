"""TensorBoard's files: what is in them, and what is not imported to write them."""

import subprocess
import sys

import numpy as np
import pytest

from invad_jax.errors import UserError
from invad_jax.training.scalars import ScalarWriter
from tests.commands import PROJECT

PROGRAM = """
import sys
from pathlib import Path
from invad_jax.training.scalars import ScalarWriter
writer = ScalarWriter(Path(sys.argv[1]), 0)
writer.write(3, {"loss": 0.5})
writer.close()
unused = {"torch", "boto3", "google.cloud.storage"}
print(sorted(unused & set(sys.modules)))
for name in unused:  # a later import is as ever
    try:
        __import__(name)
    except ImportError as error:
        assert "halted" not in str(error), error  # as of what is None there
"""


def test_a_curve_is_written_and_no_library_imported_that_is_not_used(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"
    (file,) = tmp_path.glob("events*")
    assert b"loss" in file.read_bytes()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_training_does_not_wait_for_a_thread_that_has_ended(tmp_path, monkeypatch):
    """The library writes in one, which a full disk ends without a word to who waits."""
    writer = ScalarWriter(tmp_path, 0)
    events = writer._writer.file_writer.event_writer

    def full(event):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(events._ev_writer, "write_event", full)
    for step in range(99):  # more than a queue of ten would hold
        writer._writer.add_image("x", np.zeros((64, 64, 3), np.uint8), step, dataformats="HWC")
    events._worker.join()
    with pytest.raises(UserError, match="cannot be written; the thread that does said why"):
        writer.write(99, {"loss": 0.5})
