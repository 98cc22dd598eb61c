"""TensorBoard's files: what is in them, and what is not imported to write them."""

import subprocess
import sys

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
