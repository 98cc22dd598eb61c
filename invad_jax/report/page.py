"""One HTML page with everything: numbers, histograms, pictures, settings.

The page is a single file that loads nothing from elsewhere: pictures are data URIs, the script is a
dozen lines that sort and filter. It can be mailed, archived and printed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from invad_jax.io import files
from invad_jax.normality.calibration import Calibration
from invad_jax.report.figures import Case, score_histogram, tiles, worst_first
from invad_jax.report.tables import COUNTS, FUSION_TITLES, METRICS, decision_word, format_cell

_STYLE, _SCRIPT = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
)
_TILE_SIDE = 384  # pixels; larger pictures are reduced, which keeps the page small

_FUSION_NOTES = {
    "calibrated": "Both score terms are put on one scale by normal images alone, and nothing is "
    "fitted on test images. This is what a single new image gets, and what the decisions use.",
    "test_minmax": "Both score terms are min-max scaled over the test images of each category, the "
    "anomalous ones included. Quote it only against published numbers made the same way: it does "
    "not exist for a single new image.",
}
_HEADLINE = {"i_auroc": "image AUROC", "p_auroc": "pixel AUROC", "aupro": "AUPRO", "mad": "mAD"}


def write_html(
    path: str | Path,
    title: str,
    command: str,
    config: Mapping[str, Mapping[str, Any]],
    calibration: Calibration,
    rows: Sequence[Mapping[str, Any]],
    cases: Iterable[Case],
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Writes the page of an evaluation, or of a prediction, which has no labels.

    Args:
      path: the file.
      title: of the page.
      command: what was typed to make it.
      config: the resolved configuration, section -> option -> value.
      calibration: gives threshold and heat their meaning.
      rows: all images, as in `scores.csv`; as in `predictions.csv` where `metrics` is None.
      cases: the images to show, in any order.
      metrics: the content of `metrics.json`, or None for a prediction.
    """
    if metrics is None:
        figures, sections = _prediction_figures(rows), [_prediction_histogram(rows)]
    else:
        figures = _evaluation_figures(rows, metrics)
        sections = [_metrics_section(metrics["fusion"]), _histogram_section(rows)]
    sections += [
        _gallery(worst_first(cases), calibration),
        _settings(command, config, calibration, metrics),
    ]
    content = f'<dl class="figures">{"".join(figures)}</dl>\n{_threshold_note(calibration)}'
    page = _document(title, _summary(rows, metrics), "\n".join([content, *sections]))
    with files.replaced(path) as temporary:
        temporary.write_bytes(page.encode(errors="replace"))  # a file name may be no Unicode


def _document(title: str, summary: str, content: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p>{summary}</p></header>\n<main>\n{content}\n</main>\n"
        f"<script>\n{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _summary(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return f"{_count(len(rows), 'image')}, scored without labels"
    categories = {row["category"] for row in rows}
    device = metrics["device"]
    where = f"{device['count']} x {device['kind']} ({device['platform']})"
    parts = (
        _count(len(rows), "test image"),
        f"{len(categories)} {'category' if len(categories) == 1 else 'categories'}",
        f"checkpoint of step {metrics['step']}",
        f"{_count(metrics['nfe'], 'function evaluation')} an image",
        f"seed {metrics['seed']}",
        where,
    )
    return escape(" · ".join(parts))


def _evaluation_figures(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[str]:
    mean = metrics["fusion"]["calibrated"]["mean"]
    figures = [
        _figure(label, f"{format_cell(name, mean[name])} %", "mean over categories")
        for name, label in _HEADLINE.items()
        if mean[name] is not None
    ]
    for label, gt_label, wrong in (("missed", 1, False), ("false alarms", 0, True)):
        decisions = [row["decision"] for row in rows if row["gt_label"] == gt_label]
        if decisions:
            kind = decision_word(bool(gt_label))
            number = decisions.count(decision_word(wrong))
            figures.append(_figure(label, str(number), f"of {_count(len(decisions), kind)}"))
    speed = metrics["speed"]
    if speed is None:
        return figures
    batch = f"images/s in batches of {speed['batch_size']}"
    latency = f"{speed['latency_ms_batch1']['p50']:.3g} ms"
    figures.append(_figure("speed", f"{speed['images_per_second']:.3g}", batch))
    return [*figures, _figure("latency", latency, "one image alone, median")]


def _prediction_figures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    decisions = [row["decision"] for row in rows]
    return [
        _figure(word, str(decisions.count(word)), f"of {_count(len(rows), 'image')}")
        for word in (decision_word(True), decision_word(False))
    ]


def _figure(label: str, value: str, detail: str) -> str:
    content = f"{escape(value)}<small>{escape(detail)}</small>"
    return f"<div><dt>{escape(label)}</dt><dd>{content}</dd></div>"


def _threshold_note(calibration: Calibration) -> str:
    note = (
        f"Images that score above <b>{calibration.threshold:.4g}</b> are called anomalous. The "
        f"threshold comes from {_count(calibration.num_normals, 'normal image')} for a "
        f"false-alarm rate of {100 * calibration.false_positive_rate:.3g} %; "
    )
    if calibration.held_out:
        rate = 100 * calibration.guaranteed_false_positive_rate
        note += f"that many can guarantee {rate:.3g} %, whatever the distribution."
    else:
        note += "the model was trained on them, so expect more false alarms than that."
    return f'<p class="note">{note}</p>'


def _metrics_section(fusion: Mapping[str, Any]) -> str:
    tables = [
        f"<h3>{escape(FUSION_TITLES[kind])}</h3><p>{escape(_FUSION_NOTES[kind])}</p>{_table(table)}"
        for kind, table in fusion.items()
    ]
    return (
        f"<section><h2>Metrics</h2><p>In percent; images in numbers.</p>{''.join(tables)}</section>"
    )


def _table(table: Mapping[str, Any]) -> str:
    names = (*COUNTS, *METRICS)

    def row(category: str, values: Mapping[str, Any]) -> str:
        cells = "".join(f"<td>{format_cell(name, values[name])}</td>" for name in names)
        return f'<tr><th scope="row">{escape(category)}</th>{cells}</tr>'

    head = "".join(f'<th scope="col"><button>{name}</button></th>' for name in ("category", *names))
    body = "".join(row(*item) for item in table["categories"].items())
    return (
        f'<div class="wide"><table class="metrics"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody><tfoot>{row('mean', table['mean'])}</tfoot></table></div>"
    )


_LEGEND = (
    '<p><i class="normal"></i> {} <i class="anomalous"></i> {} <i class="line"></i> threshold</p>'
)


def _histogram_section(rows: Sequence[Mapping[str, Any]]) -> str:
    names = {"NLL (nats)": "nll", "Diff": "map_range", "image score": "image_score_calibrated"}
    plots = []
    for category in sorted({row["category"] for row in rows}):
        ours = [row for row in rows if row["category"] == category]
        plot = _histogram(ours, names, lambda row: row["gt_label"] == 1)
        plots.append(f"<figure><figcaption>{escape(category)}</figcaption>{plot}</figure>")
    legend = _LEGEND.format("normal", "anomalous")
    return f"<section><h2>Scores</h2>{legend}{''.join(plots)}</section>"


def _prediction_histogram(rows: Sequence[Mapping[str, Any]]) -> str:
    def is_anomalous(row: Mapping[str, Any]) -> bool:
        return row["decision"] == decision_word(True)

    plot = _histogram(rows, {"image score": "image_score"}, is_anomalous)
    legend = _LEGEND.format("called normal", "called anomalous")
    return f"<section><h2>Scores</h2>{legend}<figure>{plot}</figure></section>"


def _histogram(
    rows: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    is_anomalous: Callable[[Mapping[str, Any]], bool],
) -> str:
    def values(anomalous: bool) -> dict[str, np.ndarray]:
        chosen = [row for row in rows if is_anomalous(row) == anomalous]
        return {label: np.array([row[column] for row in chosen]) for label, column in names.items()}

    return score_histogram(values(False), values(True), rows[0]["threshold"])


def _gallery(cases: Sequence[Case], calibration: Calibration) -> str:
    if not cases:
        return ""
    verdicts = list(dict.fromkeys(case.verdict for case in cases))
    categories = sorted({case.category for case in cases})
    cards = "".join(_card(i, case, calibration) for i, case in enumerate(cases))
    columns = max(len(tiles(case, calibration)) for case in cases)
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


def _card(order: int, case: Case, calibration: Calibration) -> str:
    pictures = tiles(case, calibration)
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
        f"<p>NLL {case.nll:.6g} nats · Diff {case.map_range:.4g}</p>{remark}</article>"
    )


def _data_uri(picture: np.ndarray) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((_TILE_SIDE, _TILE_SIDE))
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=88, subsampling=0)  # heat has sharp colour edges
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _settings(
    command: str,
    config: Mapping[str, Mapping[str, Any]],
    calibration: Calibration,
    metrics: Mapping[str, Any] | None,
) -> str:
    options = {f"{s}.{o}": value for s, section in config.items() for o, value in section.items()}
    lists = {"configuration": options, "calibration": asdict(calibration)}
    if metrics is not None:
        lists["versions"] = {"config_hash": metrics["config_hash"], **metrics["versions"]}
    details = "".join(
        f"<details><summary>{name}</summary><table>{_pairs(values)}</table></details>"
        for name, values in lists.items()
    )
    return f"<section><h2>How it was made</h2><pre>{escape(command)}</pre>{details}</section>"


def _pairs(values: Mapping[str, Any]) -> str:
    return "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in values.items()
    )


def _count(number: int, noun: str) -> str:
    """A number with its noun; adjectives such as `normal` stay as they are."""
    plural = "s" if number != 1 and noun not in ("normal", "anomalous") else ""
    return f"{number} {noun}{plural}"
