"""The cases of a page: pictures, verdict and score of each, to sort and to filter."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from invad_jax.report.figures import Case, tiles

_TILE_SIDE = 384  # pixels; larger pictures are reduced, which keeps the page small


def gallery(cases: Sequence[Case]) -> str:
    """The section of the cases, in their order; nothing without cases."""
    if not cases:
        return ""
    verdicts = list(dict.fromkeys(case.verdict for case in cases))
    categories = sorted({case.category for case in cases})
    cards = "".join(_card(i, case) for i, case in enumerate(cases))
    columns = max(len(tiles(case)) for case in cases)
    order = "Worst first" if any(case.gt_label is not None for case in cases) else "Highest first"
    return (
        '<section id="gallery"><h2>Cases</h2><p>Heat begins where a map is higher than all but a '
        "thousandth of normal images; what no heat covers looks normal. A click on a case enlarges "
        "it.</p>"
        f"<form>{_select('verdict', verdicts)}{_select('category', categories)}"
        f'<label>order <select name="order"><option value="order">{order}</option>'
        '<option value="score">By score</option></select></label> <output></output></form>'
        f'<div class="cards" style="--tiles: {columns}">{cards}</div></section>'
    )


def _select(name: str, values: Sequence[str]) -> str:
    if len(values) < 2:
        return ""
    options = "".join(f'<option value="{escape(v)}">{escape(v)}</option>' for v in values)
    all_and_options = f'<option value="">all</option>{options}'
    return f'<label>{name} <select name="{name}">{all_and_options}</select></label> '


def _card(order: int, case: Case) -> str:
    pictures = tiles(case)
    images = "".join(
        f'<figure><img src="{_data_uri(picture)}" alt="{name}">'
        f"<figcaption>{name}</figcaption></figure>"
        for name, picture in pictures.items()
    )
    place = " / ".join(escape(part) for part in (case.category, case.defect) if part)
    remark = ""
    if np.array_equal(pictures["heat map"], case.image) and (case.decision or case.gt_label):
        whole = "the image as a whole is untypical, " if case.decision else ""
        remark = f"<p><em>No heat: {whole}no place in it stands out.</em></p>"
    return (
        f'<article data-verdict="{case.verdict}" data-category="{escape(case.category)}" '
        f'data-order="{order}" data-score="{-case.image_score!r}">'
        f'<div class="tiles">{images}</div><h3><mark class="{case.verdict.replace(" ", "-")}">'
        f"{case.verdict}</mark> score {case.image_score:.3g} <small>threshold "
        f'{case.threshold:.3g}</small></h3><p>{place} <code title="'
        f'{escape(case.path)}">{escape(Path(case.path).name)}</code></p>'
        f"<p>{escape(case.terms_text)}</p>{remark}</article>"
    )


def _data_uri(picture: np.ndarray) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((_TILE_SIDE, _TILE_SIDE))
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=88, subsampling=0)  # heat has sharp colour edges
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
