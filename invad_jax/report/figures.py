"""Pictures: the heat map over the image, one case side by side.

They are composed pixel by pixel. The same input gives the same bytes. Read next: `pictures.py`, the
same for pages.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from invad_jax.io import files, names
from invad_jax.io.paths import to_path
from invad_jax.report.tables import TERM_TITLES, verdict

# It tells on first use that it builds a cache; nobody who asked for a report can act on that.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

# Perceptually uniform and safe for colour-blind eyes, from a pink that is seen on dark parts too.
HEAT = np.rint(255 * matplotlib.colormaps["plasma"](np.linspace(0.45, 1, 256))[:, :3]).astype("u1")
"""(256, 3) uint8: colours of heat, from where it begins to where it is full."""
OPACITY = np.rint(255 * (0.35 + 0.35 * np.sqrt(np.linspace(0, 1, 256)))).astype("u1")
"""(256,) uint8 of each: faint heat is seen, and the part below the strongest; 0 of no heat."""
OPACITY[0] = 0
CONTOUR = (0, 255, 255)  # cyan: no heat colour, and rare on parts
_NORMAL, _ANOMALOUS = "#0072b2", "#d55e00"  # blue and vermilion of Okabe and Ito

_FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@dataclass(frozen=True, eq=False)  # arrays have no single truth to compare by
class Case:
    """One image with everything that is known of it."""

    path: str
    category: str
    defect: str
    """Name of its test folder; empty where unknown."""
    gt_label: int | None
    """1 anomalous, 0 normal, None unknown."""
    image: np.ndarray
    """(H, W, 3) uint8."""
    gt_mask: np.ndarray | None
    """(h, w) bool, any size; None where unknown."""
    anomaly_map: np.ndarray
    """(h, w) float32, any size, higher is more anomalous."""
    image_score: float
    terms: Mapping[str, float]
    """Of `config.TERMS`, those that the score is made of."""
    threshold: float
    heat: tuple[float, float]
    """Values of the map at which heat begins, and is full."""
    decision: bool
    """Whether it is called anomalous."""

    @property
    def verdict(self) -> str:
        """See `tables.verdict`."""
        return verdict(self.decision, self.gt_label)

    @property
    def terms_text(self) -> str:
        """What the score is made of, in words."""
        return " · ".join(f"{TERM_TITLES[name]} {value:.6g}" for name, value in self.terms.items())


def overlay(image: np.ndarray, anomaly_map: np.ndarray, low: float, high: float) -> np.ndarray:
    """Blends heat onto an image where its anomaly map exceeds `low`; the rest stays as it is.

    Args:
      image: (H, W, 3) uint8.
      anomaly_map: (h, w) float32, resized bilinearly to the image.
      low: no heat at or below it.
      high: full heat from here on; above `low`.

    Returns:
      (H, W, 3) uint8.
    """
    photograph = Image.fromarray(image)
    _add_heat(photograph, anomaly_map, low, high)
    return np.asarray(photograph)


def _add_heat(image: Image.Image, anomaly_map: np.ndarray, low: float, high: float) -> None:
    if np.fmax.reduce(anomaly_map, axis=None) > low:  # else NaN or cold everywhere
        heat = heat_picture(anomaly_map, image.size, low, high)
        image.paste(heat.convert("RGB"), mask=heat.point(OPACITY.tolist(), "L"))


def heat_picture(
    anomaly_map: np.ndarray, size: tuple[int, int], low: float, high: float
) -> Image.Image:
    """Heat as a picture of rows of `HEAT`, its palette, and of `OPACITY`; 0 where there is none.

    Args:
      anomaly_map: (h, w) float32, resized bilinearly; NaN, where it takes no part, is cold.
      size: (W, H), pixels.
      low: no heat at or below it.
      high: full heat from here on; above `low`.
    """
    scaled = (np.nan_to_num(np.asarray(anomaly_map, np.float32)) - low) * (255 / (high - low))
    resized = Image.fromarray(scaled).resize(size, Image.Resampling.BILINEAR)
    level = np.clip(np.asarray(resized), 0, 255)  # (h, w) -> (H, W)
    picture = Image.fromarray(np.ceil(level, out=level).astype(np.uint8))
    picture.putpalette(HEAT.tobytes())
    return picture


def contour(image: np.ndarray, gt_mask: np.ndarray) -> np.ndarray:
    """Draws the outline of the ground truth, just outside of it: (H, W, 3) uint8.

    Args:
      image: (H, W, 3) uint8.
      gt_mask: (h, w) bool, resized (nearest) to the image.
    """
    marked = outline(gt_mask, (image.shape[1], image.shape[0]))
    return np.where(marked[..., None], np.array(CONTOUR, np.uint8), image)


def outline(gt_mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels just outside of a mask (h, w) bool that is resized (nearest) to (W, H)."""
    resized = np.asarray(Image.fromarray(gt_mask).resize(size, Image.Resampling.NEAREST))
    width = max(1, max(size) // 100)
    return ndimage.binary_dilation(resized, iterations=width) & ~resized


def tiles(case: Case) -> dict[str, np.ndarray]:
    """The pictures of a case by title: image, ground truth where it marks something, heat map."""
    pictures = {"image": case.image}
    if case.gt_mask is not None and case.gt_mask.any():
        pictures["ground truth"] = contour(case.image, case.gt_mask)
    heat = overlay(case.image, case.anomaly_map, *case.heat)
    return pictures | {"heat map": heat}


def case_panel(case: Case) -> Image.Image:
    """The pictures of a case side by side, with a caption below."""
    pictures = list(tiles(case).values())
    height, width = case.image.shape[:2]
    gap, size = 8, max(13, width // 22)
    place = " / ".join(part for part in (case.category, case.defect, Path(case.path).name) if part)
    score = f"{case.verdict.upper()}: score {case.image_score:.3g}, threshold {case.threshold:.3g}"
    font = ImageFont.truetype(_FONTS / "DejaVuSans.ttf", size)
    bold = ImageFont.truetype(_FONTS / "DejaVuSans-Bold.ttf", size)
    lines = [
        (score, bold, _verdict_colour(case)),
        (place, font, "black"),
        (case.terms_text, font, "dimgray"),
    ]
    panel = Image.new(
        "RGB",
        (len(pictures) * (width + gap) + gap, height + 2 * gap + len(lines) * (size + gap)),
        "white",
    )
    for i, picture in enumerate(pictures):
        panel.paste(Image.fromarray(picture), (gap + i * (width + gap), gap))
    draw = ImageDraw.Draw(panel)
    for i, (text, line_font, colour) in enumerate(lines):
        fitted = _shorten(text, line_font, panel.width - 2 * gap)
        draw.text((gap, height + 2 * gap + i * (size + gap)), fitted, colour, line_font)
    return panel


def write_overlay(
    path: str | Path, image: Image.Image, anomaly_map: np.ndarray, heat: tuple[float, float]
) -> None:
    """Draws the heat map into an image and writes that, at its own size, as JPEG with whole
    colours, which is faster and smaller than PNG."""
    _add_heat(image, anomaly_map, *heat)
    _write(path, image, format="JPEG", quality=90, subsampling=0)


def write_examples(folder: str | Path, cases: Iterable[Case]) -> list[Path]:
    """Writes `<folder>/<verdict>/<category>_<defect>_<stem>_score_<score>.png` for each case.

    Examples that an earlier evaluation left in these folders are removed once all are written.

    Returns:
      The files, in the order of the cases.
    """
    folder, written = to_path(folder), dict[str, Path]()
    for case in cases:
        name = "_".join(
            part for part in (case.category, case.defect, Path(case.path).stem[:80]) if part
        )
        name, score = re.sub(r"[^\w.-]+", "-", name), f"_score_{case.image_score:.1f}"
        verdict = case.verdict.replace(" ", "_")
        path, twin = folder / verdict / names.fitted(name, f"{score}.png"), 2
        while str(path).casefold() in written:  # there are disks that do not tell cases apart
            path = path.with_name(names.fitted(name, f"{score}_{twin}.png"))
            twin += 1
        _write(path, case_panel(case), format="PNG", compress_level=1)  # 16 % larger than at 6
        written[str(path).casefold()] = path
    for stale in set(folder.glob("*/*_score_*.png")) - set(written.values()):
        stale.unlink()
    return list(written.values())


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cut in front to at most `width` pixels; what the font lacks, a line break among it, shows as
    its code, and what is no valid Unicode as a question mark."""
    text = text.encode(errors="replace").decode()
    text = "".join(c if ord(c) in _glyphs() else c.encode("unicode_escape").decode() for c in text)
    shown = text
    while font.getlength(shown) > width and text:
        text = text[1:]
        shown = "…" + text
    return shown


@functools.cache
def _glyphs() -> frozenset[int]:
    """Code points that the font of captions can draw."""
    return frozenset(FT2Font(str(_FONTS / "DejaVuSans.ttf")).get_charmap())


def _verdict_colour(case: Case) -> str:
    wrong = case.verdict in ("missed", "false alarm")
    return "firebrick" if wrong else _ANOMALOUS if case.decision else _NORMAL


def _write(path: str | Path, image: Image.Image, **options: Any) -> None:
    with files.replaced(path) as temporary:
        image.save(temporary, **options)
