"""What is said of many images in a few lines; tallies of parts add up to that of the whole."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from typing import Any

from invad_jax.report.tables import UNREADABLE
from invad_jax.runtime.log import log

MOST = 20
"""Errors, and images with the highest scores, that are named."""


class Tally:
    """Counts of rows, and those that somebody will look at first. Its size does not grow."""

    def __init__(self) -> None:
        self.count = Counter[str]()
        """Rows of each decision; and of `error`, those with one."""
        self.components: dict[str, Counter[str]] = {}
        """Kind of product -> its rows of each decision."""
        self.errors: list[tuple[str, str]] = []
        """Path and error, of the first."""
        self.highest: list[tuple[float, str]] = []
        """Score and path, falling; of equal scores the first come first."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts a row, keyed by `report.tables.PREDICTION_COLUMNS`."""
        self.count[row["decision"]] += 1
        if row["error"]:
            self.count["error"] += 1
            self.errors = [*self.errors, (row["path"], row["error"])][:MOST]
        if row["decision"] != UNREADABLE:
            self.components.setdefault(row["component"], Counter())[row["decision"]] += 1
            self._rank([(row["image_score"], row["path"])])

    def extend(self, later: Mapping[str, Any]) -> None:
        """Adds what `content` of a later part gave."""
        self.count.update(later["count"])
        for name, count in later["components"].items():
            self.components.setdefault(name, Counter()).update(count)
        self.errors = [*self.errors, *((path, error) for path, error in later["errors"])][:MOST]
        self._rank([(score, path) for score, path in later["highest"]])

    @property
    def content(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "count": dict(self.count),
            "components": {name: dict(count) for name, count in sorted(self.components.items())},
            "errors": self.errors,
            "highest": self.highest,
        }

    @property
    def scored(self) -> int:
        """Rows with a score."""
        return self.count["normal"] + self.count["anomalous"]

    @property
    def rows(self) -> int:
        """All of them."""
        return self.scored + self.count[UNREADABLE]

    def report(self, where: str) -> None:
        """Says how many images are anomalous and how many have an error."""
        anomalous = self.count["anomalous"]
        log.info("%d of %d images anomalous; written to %s", anomalous, self.scored, where)
        for path, error in self.errors[:3]:
            log.warning("%s: %s", path, error)
        if self.count["error"]:
            log.warning(
                "%d of %d images with an error, in the column `error`",
                *(self.count["error"], self.rows),
            )

    def _rank(self, more: list[tuple[float, str]]) -> None:
        ranked = heapq.merge(self.highest, more, key=lambda one: -one[0])
        self.highest = [one for one, _ in zip(ranked, range(MOST), strict=False)]
