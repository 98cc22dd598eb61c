"""Being asked to stop, by a scheduler or by a person, between two steps."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import jax
import jax.distributed
from jax.experimental import multihost_utils


class StopSignal:
    """Turns SIGTERM (preemption) and the first SIGINT into a flag that the loop looks at.

    Of several processes it is enough that one is told: JAX takes the SIGTERM, and the processes
    agree on the next step that all of them reach.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}
        self._joined = jax.distributed.is_initialized()
        """Asked so, because counting processes would take hold of the devices."""

    def __enter__(self) -> StopSignal:
        if not self._joined:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._request)
        else:  # SIGTERM is JAX's own already
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._terminate)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) in (self._request, self._terminate):  # else it was told
                signal.signal(number, handler)
        if self._joined:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nobody would look at it any more

    def at(self, step: int) -> bool:
        """Whether to stop before `step`; to be asked at every step, the same on all processes."""
        if not self._joined:
            return self.requested
        return multihost_utils.reached_preemption_sync_point(step)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._previous[number])  # a second one acts at once

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, self._previous[number])
        signal.raise_signal(signal.SIGTERM)
