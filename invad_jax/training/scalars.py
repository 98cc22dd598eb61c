"""TensorBoard event files, without TensorFlow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.runtime.processes import is_primary

if TYPE_CHECKING:
    import tensorboardX


class ScalarWriter:
    """TensorBoard scalars and pictures, from the primary process only."""

    def __init__(self, folder: Path, first_step: int):
        """`first_step`: what an earlier, unbroken-off run logged from there on is superseded."""
        self._writer, self._logs = None, files.Growing(folder)
        if is_primary():
            logs = str(self._logs.folder)
            # Nothing waits for the thread that writes, which may have ended.
            self._writer = _writer_class()(logs, purge_step=first_step, max_queue=0)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Adds one point to each curve."""
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)
            self._flush(self._writer)

    def write_pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Adds pictures, (H, W, 3) uint8 each."""
        if self._writer is not None:
            for name, picture in pictures.items():
                self._writer.add_image(name, picture, step, dataformats="HWC")
            self._flush(self._writer)

    def close(self) -> None:
        """Flushes."""
        if self._writer is not None:
            self._flush(self._writer)
            self._writer.close()
            self._logs.close()

    def _flush(self, writer: tensorboardX.SummaryWriter) -> None:
        try:
            writer.flush()
        except OSError as error:
            raise UserError(f"{self._logs.target}: cannot be written: {error.strerror}") from error
        events = writer.file_writer.event_writer
        if not events._worker.is_alive():
            events._event_queue.cancel_join_thread()  # nobody will take what is in it
            raise UserError(
                f"{self._logs.target}: cannot be written; the thread that does said why, above"
            )
        self._logs.update()


def _writer_class() -> type[tensorboardX.SummaryWriter]:
    """The library's writer, without what it imports wherever that is installed: it takes torch for
    tensors, 2 s, and the clients of two stores for addresses that it is not given here, 0.5 s."""
    absent = {"torch", "boto3", "google.cloud.storage"} - set(sys.modules)
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(absent))  # with None there an import fails, as it expects
    try:
        from tensorboardX import SummaryWriter
    finally:
        for name in absent:
            modules.pop(name, None)
    return SummaryWriter
