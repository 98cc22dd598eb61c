"""The numbers of a run as a picture: speed over batch size, and how near the device's limit."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "encoder": "#0072b2",
    "denoiser": "#d55e00",
    "comparison": "#009e73",
    "detector": "#000000",
    "train step": "#cc79a7",
}
"""Of Okabe and Ito; black is the whole."""


def png(run: Mapping[str, Any]) -> bytes:
    """Images a second of each part, PyTorch's dashed, and its share of the product rate.

    Args:
      run: as `benchmark.json` holds it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    speed, share = figure.subplots(1, 2)
    _speed(speed, run)
    _share(share, run)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, metadata={"Software": None})
    return stream.getvalue()


def _speed(ax: Axes, run: Mapping[str, Any]) -> None:
    theirs = run.get("against_torch", {}).get("torch", {})
    for part, colour in COLOURS.items():
        rows = [row for row in run["parts"] if row["part"] == part]
        batches = [row["batch"] for row in rows]
        if rows:
            rates = [row["images_per_second"] for row in rows]
            bars = [rate * row["spread"] / 2 for rate, row in zip(rates, rows, strict=True)]
            ax.errorbar(batches, rates, bars, color=colour, marker="o", capsize=3, label=part)
        both = [batch for batch in batches if f"{part}, batch {batch}" in theirs]
        if both:
            rates = [1e3 * b / theirs[f"{part}, batch {b}"]["p50_ms"] for b in both]
            ax.plot(both, rates, color=colour, marker="x", linestyle="--", label=f"{part}, PyTorch")
    ax.set(xscale="log", yscale="log", xlabel="batch", ylabel="images/s")
    ticks = sorted({row["batch"] for row in run["parts"]})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=7)
    ax.spines[["top", "right"]].set_visible(False)


def _share(ax: Axes, run: Mapping[str, Any]) -> None:
    rows = run["parts"][::-1]
    names = [f"{row['part']}, {row['batch']}" for row in rows]
    shares = [100 * row["share_of_products"] for row in rows]
    ax.barh(names, shares, color=[COLOURS[row["part"]] for row in rows])
    ax.set(xlabel="percent of the measured rate of matrix products", xlim=(0, 100))
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
