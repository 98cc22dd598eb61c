"""What a line has seen since the shift began, and whether its good images are still those of the
calibration.

Read next: `line.py`, which fills it.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from scipy import stats

from invad_jax.inference.regions import Region
from invad_jax.report.tables import decision_word

MOST_RECORDS = 100_000
"""Images of a shift that are kept, about 50 MB; counts go on."""
MOST_PICTURES = 200
"""Images whose pictures are kept, 100 to 300 kB each."""
RECENT = 100
"""Images of a kind that `drift` looks at."""
_FEWEST = 20
_CHANCE = 1e-3


@dataclass(frozen=True)
class Record:
    """One image; what it has no score for is None."""

    id: int
    """From 1, rising, not repeated while the server runs."""
    time: datetime
    name: str
    """As it was said by whoever sent it; text, never a path that is opened."""
    decision: str
    """`normal`, `anomalous` or `unreadable`."""
    image_score: float | None = None
    threshold: float | None = None
    component: str | None = None
    normal_percentile: float | None = None
    milliseconds: float | None = None
    regions: Sequence[Region] = ()
    error: str | None = None


class Pictures(NamedTuple):
    """Of one image."""

    photograph: bytes
    """JPEG."""
    heat: bytes | None
    """PNG to be stretched over it; None where there is no heat."""


@dataclass
class Shift:
    """All that was seen since it began."""

    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    records: OrderedDict[int, Record] = field(default_factory=OrderedDict)
    pictures: OrderedDict[int, Pictures] = field(default_factory=OrderedDict)
    count: Counter[str] = field(default_factory=Counter)
    """Decision -> images."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, record: Record, pictures: Pictures | None) -> None:
        """Keeps an image, and forgets what there is no room for."""
        with self._lock:
            self.count[record.decision] += 1
            self.records[record.id] = record
            if pictures:
                self.pictures[record.id] = pictures
            while len(self.records) > MOST_RECORDS:
                self.records.popitem(last=False)
            while len(self.pictures) > MOST_PICTURES:
                self.pictures.popitem(last=False)

    def newer(self, than: int, at_most: int) -> list[Record]:
        """The newest images with an id above `than`, the oldest of them first."""
        found: list[Record] = []
        with self._lock:
            for record in reversed(self.records.values()):
                if record.id <= than or len(found) == at_most:
                    break
                found.append(record)
        return found[::-1]


def drift(records: Sequence[Record], normals: Mapping[str, np.ndarray]) -> list[str]:
    """In words, what has moved: the scores of the images that were called normal, of each kind the
    last `RECENT`, against the normal images that set the threshold and score below it too.

    A rank sum test (Mann and Whitney 1947) that chance fails once in a thousand; of fewer than
    20 images nothing is said. It is asked again with every image: of simulated shifts of 1,000
    good images, 4 in a hundred were called moved at some time (200 normal images, Gaussian scores,
    asked every ten images, seeds 0 to 199).

    Args:
      records: of the shift, in the order of time.
      normals: kind -> (n,) image scores of the normal images that set its threshold.
    """
    lines = []
    for kind, reference in normals.items():
        own = [
            record
            for record in records
            if record.component == kind and record.decision == decision_word(False)
        ][-RECENT:]
        scores = np.array([record.image_score for record in own], np.float64)
        # Where it was moved: above the lowest threshold not all of either are here.
        lowest = min((one.threshold or 0.0 for one in own), default=0.0)
        scores, known = scores[scores <= lowest], reference[reference <= lowest]
        if len(scores) < _FEWEST or len(known) < _FEWEST:
            continue
        if stats.mannwhitneyu(scores, known).pvalue < _CHANCE:
            typical = 100 * np.mean(known <= np.median(scores))
            higher = np.median(scores) > np.median(known)
            of = f"{kind}: " if kind else ""
            lines.append(
                f"{of}good images score {'higher' if higher else 'lower'} than those of the "
                f"calibration: the typical one of the last {len(scores)} lies above "
                f"{typical:.0f} % of them, where 50 % is expected. Look at camera, light and parts"
            )
    return lines
