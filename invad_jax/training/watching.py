"""How fast training runs and what it waits for; a trace of some steps.

Read next: `loop.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.runtime import processes
from invad_jax.runtime.log import log

LINE_EVERY = 10.0
"""Seconds between two lines in the log, at least; the last step has one in any case."""
WORDS = {
    "loss": "loss {:.4f}",
    "steps_per_second": "{:.3g} steps/s",
    "images_per_second": "{:.3g} images/s",
    "input_wait": "{:.1%} of the time waiting for input",
    "device_memory_peak_gb": "{:.3g} GB of a device at most",
}
"""What of the scalars a line says."""


class Watch:
    """Clocks of the steps since the last look at them.

    A device waits for its input while a batch is fetched and the step before is done. When that is,
    a thread waits to see, so that the loop goes on ahead of the device.
    """

    def __init__(self, first_step: int, batch_size: int):
        """`batch_size`: of all processes."""
        self._batch_size = batch_size
        self._pool = ThreadPoolExecutor(1)
        self._done: Future[float] | None = None
        self._said = 0.0
        self.restart(first_step)

    def restart(self, step: int) -> None:
        """The clocks begin anew, `step` steps being done."""
        self._step, self._since, self._waited = step, time.perf_counter(), 0.0

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Around what brings the next batch."""
        begun = time.perf_counter()
        yield
        ended = time.perf_counter()
        if self._done and self._done.done():
            self._waited += max(0.0, ended - max(begun, self._done.result()))

    def dispatched(self, scalars: Any) -> None:
        """A step was handed to the devices; `scalars` are among its results."""
        self._done = self._pool.submit(_done_at, scalars)

    def look(self, step: int) -> dict[str, float]:
        """Rates since the last look, of this process's input, and the memory of its devices.

        Args:
          step: so many are done.

        Returns:
          `steps_per_second`, `images_per_second`, `input_wait` (share of the time, 0..1), and
          `device_memory_peak_gb` since the start of the process, where a device counts it.
        """
        now = time.perf_counter()
        seconds, rate = now - self._since, (step - self._step) / (now - self._since)
        values = {
            "steps_per_second": rate,
            "images_per_second": rate * self._batch_size,
            "input_wait": self._waited / seconds,
        }
        stats = [device.memory_stats() or {} for device in jax.local_devices()]
        peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
        if peaks:
            values["device_memory_peak_gb"] = max(peaks) / 1e9
        self.restart(step)
        return values

    def say(self, step: int, values: Mapping[str, float], last: bool) -> None:
        """A line in the log, unless there was one just now."""
        if last or self._since - self._said >= LINE_EVERY:
            self._said = self._since
            said = [text.format(values[name]) for name, text in WORDS.items() if name in values]
            log.info("step %d: %s", step, ", ".join(said))

    def close(self) -> None:
        """Ends the thread."""
        self._pool.shutdown(wait=False)


def _done_at(scalars: Any) -> float:
    jax.block_until_ready(scalars)
    return time.perf_counter()


class Profile:
    """A trace of some steps for XProf, by the first process, of its devices and host."""

    def __init__(self, folder: Path, steps: int):
        """`steps`: how many; 0: none."""
        self._files, self._left = files.Growing(folder), steps if processes.is_primary() else 0
        self._tracing = False

    def before(self, scalars: Any) -> None:
        """Before a step is begun; `scalars` are of the one before, which is compiled by then.

        Raises:
          UserError: the folder cannot be written.
        """
        if scalars is None:
            return
        if self._tracing and not self._left:
            self.stop(scalars)
        if self._left:
            if not self._tracing:
                try:
                    self._files.folder.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise UserError(
                        f"{self._files.target}: cannot be written: {error.strerror}"
                    ) from error
                jax.profiler.start_trace(self._files.folder)
                self._tracing = True
            self._left -= 1

    def stop(self, scalars: Any) -> None:
        """Writes what was traced, once the last step is done."""
        if self._tracing:
            jax.block_until_ready(scalars)
            jax.profiler.stop_trace()
            self._tracing = False
            self._files.close()
            log.info("trace written; to look at it: xprof --logdir %s", self._files.target)
        elif self._left:
            log.warning("--profile: no step was left to trace")
        self._left = 0
