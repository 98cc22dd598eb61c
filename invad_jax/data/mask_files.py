"""Which mask belongs to which image, by name alone.

A mask belongs to the image that is called like it, where the folders that both lie in agree: every
folder of the mask is one of the image's, in their order. So `ground_truth/broken/000_mask.png`,
`broken/label/000.png`, `MASK/000.png` and `broken/000_mask.png` are all masks of
`test/broken/000.png`. Of several such masks those that share the most folders count, and all of
them together: an image may have a folder of masks, as in MVTec LOCO AD. No mask has two images.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from invad_jax.data import names
from invad_jax.data.folders import File

_Key = tuple[tuple[str, ...], str]
"""Folders and stem."""


class Matches(NamedTuple):
    """What was found."""

    masks: dict[str, tuple[str, ...]]
    """Path of an image -> those of its masks."""
    ambiguous: list[str]
    """Masks that could be of several images, and so are of none."""
    unmatched: list[str]
    """Masks that are of no image."""


class _Claim(NamedTuple):
    """That a mask may be of an image; the greatest one holds."""

    shared_folders: int
    same_stem: bool
    image: str


def match(images: Sequence[File], normal: Sequence[File], masks: Sequence[File]) -> Matches:
    """Finds the masks of anomalous images.

    Args:
      images: the anomalous ones.
      normal: normal ones, whose masks say nothing, but are not unmatched.
      masks: all that there are.
    """
    claims = _claims(images, _index(masks))
    found: dict[str, list[str]] = defaultdict(list)
    ambiguous = []
    for mask, of_mask in claims.items():
        best = max(claim[:2] for claim in of_mask)
        winners = {claim.image for claim in of_mask if claim[:2] == best}
        if len(winners) > 1:
            ambiguous.append(mask)
        else:
            found[winners.pop()].append(mask)
    left = [mask for mask in masks if mask.path not in claims]
    of_normal = _claims(normal, _index(left))
    return Matches(
        {image: tuple(sorted(paths)) for image, paths in found.items()},
        sorted(ambiguous),
        [mask.path for mask in left if mask.path not in of_normal],
    )


def _index(masks: Iterable[File]) -> dict[_Key, list[tuple[str, bool]]]:
    """Masks by what they may be found under; with each, whether its stem is the whole name."""
    index: dict[_Key, list[tuple[str, bool]]] = defaultdict(list)
    for mask in masks:
        folders = tuple(map(names.plain, mask.labels))
        stem = names.without_extension(mask.stem).casefold()
        index[folders, stem].append((mask.path, True))
        core = names.mask_core(mask.stem)
        if core is not None:
            index[folders, names.without_extension(core)].append((mask.path, False))
        if mask.labels:  # a folder of masks, called like the image
            index[folders[:-1], mask.labels[-1].casefold()].append((mask.path, False))
    return index


def _claims(
    images: Iterable[File], index: dict[_Key, list[tuple[str, bool]]]
) -> dict[str, list[_Claim]]:
    """Path of a mask -> the images that may have it."""
    claims: dict[str, list[_Claim]] = defaultdict(list)
    for image in images:
        folders = tuple(map(names.plain, image.labels))
        for key in _keys(folders, names.image_cores(image.stem)):
            if key in index:
                for mask, same_stem in index[key]:
                    claims[mask].append(_Claim(len(key[0]), same_stem, image.path))
                break
    return claims


def _keys(folders: tuple[str, ...], stems: Sequence[str]) -> Iterable[_Key]:
    """What an image's mask may be found under, the surest first."""
    for count in range(len(folders), -1, -1):
        for kept in dict.fromkeys(itertools.combinations(folders[:6], count)):
            for stem in stems:
                yield kept, stem
