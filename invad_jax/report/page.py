"""One HTML page with everything: decisions, curves, numbers, pictures, settings.

The page is a single file that loads nothing from elsewhere: pictures are data URIs, and its script
draws and counts what is in the page. It can be mailed, archived and printed.

Read next: `decisions.py`, `gallery.py`; `charts.js` and `page.js`, which run in the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from invad_jax.io import files
from invad_jax.metrics import PerRegionOverlap
from invad_jax.normality.calibrations import Calibrations
from invad_jax.report import content, decisions, pictures
from invad_jax.report.figures import Case
from invad_jax.report.gallery import gallery
from invad_jax.report.tables import (
    COUNTS,
    METRICS,
    TERM_TITLES,
    UNREADABLE,
    decision_word,
    format_cell,
    fusion_title,
)
from invad_jax.report.words import FIGURES, MEANINGS, count

_STYLE, _CHARTS, _SCRIPT = (
    Path(__file__).with_name(name).read_text(encoding="utf-8")
    for name in ("page.css", "charts.js", "page.js")
)
_MOST_ERRORS = 50  # shown; the table has all

_FUSION_NOTES = {
    "calibrated": "The score is {terms}, on a scale that normal images alone have set; nothing is "
    "fitted on test images. This is what a single new image gets, and what the decisions use.",
    "test_minmax": "NLL and Diff are min-max scaled over the test images of each category, the "
    "anomalous ones included. Quote it only against published numbers made the same way: it does "
    "not exist for a single new image.",
}


def write_html(
    path: str | Path,
    title: str,
    command: str,
    config: Mapping[str, Mapping[str, Any]],
    calibrations: Calibrations,
    rows: Sequence[Mapping[str, Any]],
    cases: Iterable[Case],
    metrics: Mapping[str, Any] | None = None,
    normals: Mapping[str, np.ndarray] | None = None,
    pro: Mapping[str, PerRegionOverlap] | None = None,
) -> None:
    """Writes the page of an evaluation, or of a prediction, which has no labels.

    Args:
      path: the file.
      title: of the page.
      command: what was typed to make it.
      config: the resolved configuration, section -> option -> value.
      calibrations: give the thresholds their meaning.
      rows: all images, as in `scores.csv`; as in `predictions.csv` where `metrics` is None, of
        which at least one has a score.
      cases: the images to show, those that matter most first; as many are taken as have room.
      metrics: the content of `metrics.json`, or None for a prediction.
      normals: kind -> scores of the normal images that set its threshold.
      pro: category -> the curve of which AUPRO is the area.
    """
    labelled = metrics is not None
    scored = [row for row in rows if labelled or row["image_score"] is not None]
    sections = [decisions.section(scored, calibrations, labelled)]
    if metrics is None:
        figures = _prediction_figures(rows)
        alarms = ""
        sections.append(_errors_section([row for row in rows if row.get("error")]))
    else:
        figures = _evaluation_figures(rows, metrics)
        asked = max(one.false_positive_rate for _, one in calibrations)
        alarms = decisions.alarm_box(decisions.alarms(rows, asked))
        titles = {name: TERM_TITLES[name] for name in calibrations.terms}
        lost = {"error": "left out of every number"}
        sections += [
            _errors_section([{"path": name, **lost} for name in metrics["unreadable"]]),
            _curves_section(pro or {}),
            _metrics_section(metrics, titles),
        ]
    sections += [
        gallery(cases, scored, labelled),
        _meanings_section(calibrations),
        _settings(command, config, calibrations, metrics),
    ]
    body = f'{alarms}<dl class="figures">{"".join(figures)}</dl>\n' + "\n".join(sections)
    known = content.as_json(scored, calibrations, normals or {}, pro or {}, labelled)
    page = _document(title, _summary(rows, metrics), body, known)
    with files.replaced(path) as temporary:
        temporary.write_bytes(page.encode(errors="replace"))  # a file name may be no Unicode


def _document(title: str, summary: str, body: str, known: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n:root {{ --heat: {pictures.colour_bar()}; }}\n"
        f"{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p>{summary}</p></header>\n<main>\n{body}\n</main>\n"
        f'<script type="application/json" id="data">{known}</script>\n'
        f"<script>\n{_CHARTS}{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _summary(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return f"{count(len(rows), 'image')}, scored without labels"
    categories = {row["category"] for row in rows}
    device = metrics["device"]
    where = f"{device['count']} x {device['kind']} ({device['platform']})"
    parts = (
        count(len(rows), "test image"),
        count(len(categories), "category"),
        f"checkpoint of step {metrics['step']}",
        f"compared by {metrics['paradigm']}, trained for {metrics['objective']}",
        f"{count(metrics['nfe'], 'function evaluation')} an image, in {metrics['precision']}",
        f"seed {metrics['seed']}",
        where,
    )
    return escape(" · ".join(parts))


def _evaluation_figures(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[str]:
    mean = metrics["fusion"]["calibrated"]["mean"]
    figures = [
        _figure(label, f"{format_cell(name, mean[name])} %", "mean over categories")
        for name, label in FIGURES.items()
        if mean[name] is not None
    ]
    for verdict, gt_label in (("missed", 1), ("false alarm", 0)):
        known = [row for row in rows if row["gt_label"] == gt_label]
        if known:
            number = sum(decisions.verdict_of(row) == verdict for row in known)
            of = f"of {count(len(known), decision_word(bool(gt_label)))}"
            label = "missed" if gt_label else "false alarms"
            figures.append(_figure(label, str(number), of, verdict))
    speed = metrics["speed"]
    if speed is None:
        return figures
    batch = f"images/s in batches of {speed['batch_size']}"
    latency = f"{speed['latency_ms_batch1']['p50']:.3g} ms"
    figures.append(_figure("speed", f"{speed['images_per_second']:.3g}", batch))
    return [*figures, _figure("latency", latency, "one image alone, median")]


def _prediction_figures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    words = [row["decision"] for row in rows]
    return [
        _figure(
            word,
            str(words.count(word)),
            f"of {count(len(rows), 'image')}",
            word if word != UNREADABLE else None,
        )
        for word in (decision_word(True), decision_word(False), UNREADABLE)
        if word != UNREADABLE or UNREADABLE in words
    ]


def _errors_section(failed: Sequence[Mapping[str, Any]]) -> str:
    if not failed:
        return ""
    more = f"<li>and {len(failed) - _MOST_ERRORS} more</li>" if len(failed) > _MOST_ERRORS else ""
    items = "".join(
        f"<li><code>{escape(row['path'])}</code>: {escape(row['error'])}</li>"
        for row in failed[:_MOST_ERRORS]
    )
    return f"<section><h2>What could not be read</h2><ul>{items}{more}</ul></section>"


def _figure(label: str, value: str, detail: str, total: str | None = None) -> str:
    """A number at the head of the page; `total` is the verdict that it counts."""
    wrong = ' class="wrong"' if total in ("missed", "false alarm") and value != "0" else ""
    counted = f'<b data-total="{total}">{value}</b>' if total else f"<b>{escape(value)}</b>"
    value_of = f"<dd>{counted}<small>{escape(detail)}</small></dd>"
    return f"<div{wrong}><dt>{escape(label)}</dt>{value_of}</div>"


def _curves_section(pro: Mapping[str, PerRegionOverlap]) -> str:
    names = {"roc": "ROC of images", "pr": "precision and recall of images"}
    if pro:
        names["pro"] = "overlap with defect regions (PRO)"
    plots = "".join(
        f'<figure><figcaption>{title}</figcaption><div class="{name}"></div></figure>'
        for name, title in names.items()
    )
    return (
        '<section id="curves"><h2>Curves</h2><p>A line for each category, a dot where its '
        "threshold is now. A category chosen among the cases below stands out here.</p>"
        f'<div class="plots">{plots}</div><ul class="legend"></ul></section>'
    )


def _metrics_section(metrics: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    def note(kind: str) -> str:
        return escape(_FUSION_NOTES[kind].format(terms=" plus ".join(titles.values())))

    tables = [
        f"<h3>{escape(fusion_title(kind, metrics['published']))}</h3><p>{note(kind)}</p>"
        f"{_table(table)}"
        for kind, table in metrics["fusion"].items()
    ]
    return (
        "<section><h2>Metrics</h2><p>In percent; images in numbers. "
        f"{escape(_reservations(metrics))}</p>{''.join(tables)}</section>"
    )


def _reservations(metrics: Mapping[str, Any]) -> str:
    """What pixel metrics do not cover."""
    masks = metrics["masks"].items()
    lacking = [f"{one['without']} of {name}" for name, one in masks if one["without"]]
    if not lacking:
        return ""
    return f"Pixel metrics leave out anomalous images without a mask: {', '.join(lacking)}."


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


def _meanings_section(calibrations: Calibrations) -> str:
    terms = " plus ".join(TERM_TITLES[name] for name in calibrations.terms)
    decided = f"Decisions on this page are made by: {terms}."
    return (
        f"<section><h2>What the numbers mean</h2><p>{escape(decided)}</p>"
        f'<dl class="meanings">{"".join(_meaning(*one) for one in MEANINGS.items())}</dl></section>'
    )


def _meaning(name: str, meaning: str) -> str:
    return f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>"


def _settings(
    command: str,
    config: Mapping[str, Mapping[str, Any]],
    calibrations: Calibrations,
    metrics: Mapping[str, Any] | None,
) -> str:
    options = {f"{s}.{o}": value for s, section in config.items() for o, value in section.items()}
    lists = {"configuration": options}
    for name, one in calibrations:
        lists[f"calibration {name}".rstrip()] = asdict(one)
    if metrics is not None:
        lists["versions"] = {"config_hash": metrics["config_hash"], **metrics["versions"]}
    details = "".join(
        f"<details><summary>{escape(name)}</summary><table>{_pairs(values)}</table></details>"
        for name, values in lists.items()
    )
    return f"<section><h2>How it was made</h2><pre>{escape(command)}</pre>{details}</section>"


def _pairs(values: Mapping[str, Any]) -> str:
    return "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in values.items()
    )
