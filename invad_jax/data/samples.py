"""Two small data sets that fetch themselves, in MVTec AD layout: real photographs and drawn images.

`procedural` needs no network and is the smoke test. It is not trivial: position, tint, light and
noise vary from image to image, and some defects differ from a normal part by texture or place only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from invad_jax.errors import UserError
from invad_jax.io.downloads import cache_dir, extract_members, from_package_index, whole_folder

log = logging.getLogger(__name__)

SAMPLE_SETS = ("hazelnut", "procedural")
"""Layouts that fetch their files themselves."""
LICENCES = {
    "hazelnut": "CC BY 4.0: images from the OpenVINO Training Extensions (otx 2.6.0)",
    "procedural": "Apache-2.0: drawn by invad_jax",
}
SIDE = 128
"""Pixels of a drawn image."""
NUM_TRAIN, NUM_GOOD, NUM_PER_DEFECT = 40, 10, 5


def hazelnut_root() -> Path:
    """Photographs of hazelnuts with masks: 28 train, 6 good and 17 anomalous test images.

    Returns:
      The folder of the category, downloaded on first use.

    Raises:
      UserError: no network and no archive in the cache.
    """
    try:
        archive = from_package_index(
            "otx==2.6.0",
            "otx-2.6.0.tar.gz",
            "b1c865a107e76a14e7e3ca5840ff92153a3932be959725ab40288ec302a67de8",
        )
    except UserError as error:
        raise UserError(f"{error} (the sample set `procedural` needs no download)") from error
    root = cache_dir() / "samples" / "otx-2.6.0" / "hazelnut"
    extract_members(archive, "otx-2.6.0/tests/assets/anomaly_hazelnut", root)
    log.info("hazelnut: %s", LICENCES["hazelnut"])
    return root


def procedural_root() -> Path:
    """Drawn images of two categories, `disc` and `weave`, with three kinds of defects each.

    Returns:
      The folder of the categories, drawn on first use; the same images every time.
    """
    root = cache_dir() / "samples" / "procedural-1"  # the number changes with the drawing
    with whole_folder(root) as folder:
        if folder is not None:
            for number, (category, (draw, defects)) in enumerate(sorted(_CATEGORIES.items())):
                _write_category(folder / category, number, draw, defects)
    return root


Draw = Callable[[np.random.Generator], np.ndarray]
"""A normal image, (SIDE, SIDE, 3) float in 0..1."""
Paint = tuple[np.ndarray, np.ndarray]
"""A colour, (3,), and its weight at every pixel, (SIDE, SIDE) in 0..1; or a colour a pixel."""
Defect = Callable[[np.random.Generator, np.ndarray], Paint]
"""A normal image -> what to paint over it; the mask is where there is paint."""


def _write_category(folder: Path, number: int, draw: Draw, defects: dict[str, Defect]) -> None:
    groups: list[tuple[str, int, Defect | None]] = [
        ("train/good", NUM_TRAIN, None),
        ("test/good", NUM_GOOD, None),
        *((f"test/{name}", NUM_PER_DEFECT, defect) for name, defect in defects.items()),
    ]
    for group, (subfolder, count, defect) in enumerate(groups):
        (folder / subfolder).mkdir(parents=True)
        for i in range(count):
            rng = np.random.default_rng([number, group, i])
            image = draw(rng)
            if defect is not None:
                colour, weight = defect(rng, image)
                image = _blend(image, colour, weight)
                masks = folder / subfolder.replace("test", "ground_truth")
                masks.mkdir(parents=True, exist_ok=True)
                _save(masks / f"{i:03d}_mask.png", (weight > 0.1).astype(float))
            _save(folder / subfolder / f"{i:03d}.png", _photographed(rng, image))


def _save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)).save(path)


def _photographed(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Exposure, a slope of light across the image, and sensor noise."""
    y, x = _grid()
    slope_y, slope_x = rng.uniform(-0.12, 0.12, 2)
    light = rng.uniform(0.9, 1.1) * (1 + slope_y * y + slope_x * x)
    return image * light[:, :, None] + rng.normal(0, 0.015, image.shape)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates y and x, (SIDE, SIDE) each, from -1 to 1."""
    axis = np.linspace(-1, 1, SIDE)
    return axis[:, None] + 0 * axis, axis + 0 * axis[:, None]


def _turned(rng: np.random.Generator, most: float) -> tuple[np.ndarray, np.ndarray]:
    """The grid, shifted and turned by up to `most` radians."""
    y, x = _grid()
    angle, dy, dx = rng.uniform(-1, 1, 3) * [most, 0.06, 0.06]
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * (y + dy) - sin * (x + dx), sin * (y + dy) + cos * (x + dx)


def _edge(distance: np.ndarray) -> np.ndarray:
    """1 where a signed distance is inside (negative), 0 outside, with a soft step of a pixel."""
    return 1 / (1 + np.exp(np.clip(distance * SIDE, -30, 30)))


def _blend(image: np.ndarray, colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return image + weight[:, :, None] * (colour - image)


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue])


def _blob(rng: np.random.Generator, reach: float, low: float, high: float) -> np.ndarray:
    """A wobbly spot within `reach` of the centre, radius `low` to `high`; weights 0..1."""
    y, x = _grid()
    y, x = y - rng.uniform(-reach, reach), x - rng.uniform(-reach, reach)
    wobble = 1 + 0.25 * np.sin(3 * np.arctan2(y, x) + rng.uniform(0, 6.28))
    return _edge(np.hypot(y, x) - rng.uniform(low, high) * wobble)


def _stroke(rng: np.random.Generator, reach: float, width: float) -> np.ndarray:
    """A straight stroke of random direction and 0.3 to 0.6 half-length; weights 0..1."""
    y, x = _grid()
    y, x = y - rng.uniform(-reach, reach), x - rng.uniform(-reach, reach)
    angle = rng.uniform(0, np.pi)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return _edge(np.maximum(np.abs(across) - width, np.abs(along) - rng.uniform(0.3, 0.6)))


def _weave(rng: np.random.Generator) -> np.ndarray:
    """Cloth: two sets of threads that pass over and under each other."""
    y, x = _turned(rng, 0.05)
    pitch = rng.uniform(24, 26)
    over = np.sin(y * pitch) * np.sin(x * pitch) > 0
    warp = 0.55 + 0.2 * np.abs(np.sin(x * pitch))
    weft = 0.45 + 0.2 * np.abs(np.sin(y * pitch))
    tint = _rgb(0.95, 0.85, 0.7) + rng.uniform(-0.03, 0.03, 3)
    return np.where(over, warp, weft)[:, :, None] * tint


def _stain(rng: np.random.Generator, image: np.ndarray) -> Paint:
    tint = rng.uniform([0.6, 0.5, 0.4], [0.75, 0.65, 0.6])
    return image * tint, _blob(rng, 0.6, 0.12, 0.25)


def _cut(rng: np.random.Generator, image: np.ndarray) -> Paint:
    return _rgb(0.25, 0.22, 0.2), _stroke(rng, 0.4, 0.03)


def _melted(rng: np.random.Generator, image: np.ndarray) -> Paint:
    """The mean colour without the threads: a defect of texture only."""
    return image.mean(axis=(0, 1)), _blob(rng, 0.6, 0.15, 0.3)


def _disc(rng: np.random.Generator) -> np.ndarray:
    """A printed disc on a plain ground: rim, ring and five dots, shifted and turned a little."""
    y, x = _turned(rng, 0.35)
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    ground = np.full((SIDE, SIDE, 3), _rgb(0.72, 0.74, 0.76)) + rng.uniform(-0.03, 0.03, 3)
    image = _blend(ground, _rgb(0.85, 0.8, 0.55), _edge(radius - 0.75))
    image = _blend(image, _rgb(0.35, 0.3, 0.25), _edge(np.abs(radius - 0.7) - 0.05))
    image = _blend(image, _rgb(0.2, 0.35, 0.6), _edge(np.abs(radius - 0.2) - 0.04))
    fifth = 2 * np.pi / 5
    nearest = angle - fifth * np.rint(angle / fifth)  # angle to the nearest of the dots
    dots = np.hypot(radius * np.cos(nearest) - 0.45, radius * np.sin(nearest)) - 0.07
    return _blend(image, _rgb(0.6, 0.2, 0.2), _edge(dots))


def _scratch(rng: np.random.Generator, image: np.ndarray) -> Paint:
    return _rgb(0.92, 0.9, 0.85), _stroke(rng, 0.25, 0.02)


def _chip(rng: np.random.Generator, image: np.ndarray) -> Paint:
    """A bite out of the rim, filled with the colour of the ground."""
    y, x = _grid()
    angle = rng.uniform(0, 2 * np.pi)
    bite = np.hypot(y - 0.72 * np.sin(angle), x - 0.72 * np.cos(angle)) - rng.uniform(0.12, 0.2)
    ground = image[0, 0]
    return ground, _edge(bite) * (np.abs(image - ground).max(axis=-1) > 0.02)


def _misprint(rng: np.random.Generator, image: np.ndarray) -> Paint:
    """One more dot, of the printed colour, where none belongs."""
    y, x = _grid()
    angle = rng.uniform(0, 2 * np.pi)
    dot = np.hypot(y - 0.05 * np.sin(angle), x - 0.05 * np.cos(angle)) - rng.uniform(0.07, 0.1)
    return _rgb(0.6, 0.2, 0.2), _edge(dot)


_CATEGORIES: dict[str, tuple[Draw, dict[str, Defect]]] = {
    "disc": (_disc, {"chip": _chip, "misprint": _misprint, "scratch": _scratch}),
    "weave": (_weave, {"cut": _cut, "melted": _melted, "stain": _stain}),
}
