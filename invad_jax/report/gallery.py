"""The cases of a page: pictures, verdict and score of each, to sort, to filter and to enlarge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from invad_jax.report import pictures
from invad_jax.report.figures import Case
from invad_jax.report.pictures import Pictures

MAX_PICTURES = 9_000_000
"""Characters of pictures on a page, at most: some 150 to 400 cases."""
_VERDICTS = ("missed", "false alarm", "found", "passed")


def gallery(cases: Iterable[Case], rows: Sequence[Mapping[str, object]], labelled: bool) -> str:
    """The section of the cases, as many as there is room for; nothing without cases.

    Args:
      cases: those that matter most first.
      rows: of all images that have a score, in the order in which the script knows them.
      labelled: whether there is a ground truth.
    """
    index = {row["path"]: i for i, row in enumerate(rows)}
    cards, room = [], MAX_PICTURES
    for case in cases:
        drawn = pictures.of_case(case)
        room -= drawn.size
        if room < 0:
            break
        cards.append(_card(index[case.path], case, drawn))
    if not cards:
        return ""
    return (
        '<section id="gallery"><h2>Cases</h2><p>Cyan outlines are the ground truth. Heat begins '
        "where a map is higher than all but a thousandth of normal images; what no heat covers "
        "looks normal. A click, or Enter, enlarges a case; arrows then lead on.</p>"
        '<p class="bar"><span>heat begins</span><b></b><span>full</span></p>'
        f'{_form(rows, labelled)}<div class="cards">{"".join(cards)}</div>{_DIALOG}</section>'
    )


def _form(rows: Sequence[Mapping[str, object]], labelled: bool) -> str:
    chosen = [("verdict", [("mistakes", "mistakes"), *((v, v) for v in _VERDICTS)])]
    if labelled:
        for name in ("category", "defect"):
            values = sorted({str(row[name]) for row in rows})
            chosen.append((name, [(str(i), value) for i, value in enumerate(values)]))
    else:
        chosen = [("verdict", [("anomalous", "anomalous"), ("normal", "normal")])]
    order = '<option value="wrong">worst first</option>' if labelled else ""
    return (
        f"<form>{''.join(_select(name, values) for name, values in chosen)}"
        f'<label>order <select name="order">{order}<option value="score">highest score first'
        "</option></select></label> <output></output></form>"
    )


def _select(name: str, values: Sequence[tuple[str, str]]) -> str:
    if len(values) < 2:
        return ""
    options = "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in values)
    return (
        f'<label>{name} <select name="{name}"><option value="">all</option>{options}'
        "</select></label> "
    )


_DIALOG = (
    '<dialog><nav><button type="button" class="previous" aria-label="previous">&larr;</button>'
    '<button type="button" class="next" aria-label="next">&rarr;</button>'
    '<button type="button" class="close">close</button></nav><div></div>'
    '<p class="path"></p></dialog>'
)


def _card(index: int, case: Case, drawn: Pictures) -> str:
    layers = [
        ("photograph", "image", drawn.photograph),
        ("heat", "heat map", drawn.heat),
        ("truth", "ground truth", drawn.ground_truth),
    ]
    images = "".join(f'<img class="{k}" alt="{alt}" src="{uri}">' for k, alt, uri in layers if uri)
    place = " / ".join(escape(part) for part in (case.category, case.defect) if part)
    remark = ""
    if drawn.heat is None and (case.decision or case.gt_label):
        whole = "the image as a whole is untypical, " if case.decision else ""
        remark = f"<p><em>No heat: {whole}no place in it stands out.</em></p>"
    return (
        f'<article data-image="{index}" data-verdict="{case.verdict}" tabindex="0">'
        f'<div class="tiles"><div class="stack" style="aspect-ratio:{drawn.width}/{drawn.height}">'
        f'{images}</div></div><h3><mark class="{case.verdict.replace(" ", "-")}">{case.verdict}'
        f"</mark> score {case.image_score:.3g} <small>threshold {case.threshold:.3g}</small></h3>"
        f'<p>{place} <code title="{escape(case.path)}">{escape(Path(case.path).name)}</code></p>'
        f"<p>{escape(case.terms_text)}</p>{remark}</article>"
    )
