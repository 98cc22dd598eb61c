"""One HTML page with everything: numbers, histograms, pictures, settings.

The page is a single file that loads nothing from elsewhere: pictures are data URIs, the script is a
dozen lines that sort and filter. It can be mailed, archived and printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from invad_jax.io import files
from invad_jax.normality.calibration import Calibration, doubt
from invad_jax.normality.calibrations import Calibrations
from invad_jax.report.figures import Case, score_histogram, worst_first
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

_STYLE, _SCRIPT = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
)
_MOST_ERRORS = 50  # shown; the table has all

_FUSION_NOTES = {
    "calibrated": "The score is {terms}, on a scale that normal images alone have set; nothing is "
    "fitted on test images. This is what a single new image gets, and what the decisions use.",
    "test_minmax": "NLL and Diff are min-max scaled over the test images of each category, the "
    "anomalous ones included. Quote it only against published numbers made the same way: it does "
    "not exist for a single new image.",
}
_HEADLINE = {"i_auroc": "image AUROC", "p_auroc": "pixel AUROC", "aupro": "AUPRO", "mad": "mAD"}


def write_html(
    path: str | Path,
    title: str,
    command: str,
    config: Mapping[str, Mapping[str, Any]],
    calibrations: Calibrations,
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
      calibrations: give the thresholds their meaning.
      rows: all images, as in `scores.csv`; as in `predictions.csv` where `metrics` is None, of
        which at least one has a score.
      cases: the images to show, in any order.
      metrics: the content of `metrics.json`, or None for a prediction.
    """
    if metrics is None:
        scored = [row for row in rows if row["image_score"] is not None]
        failed = [row for row in rows if row.get("error")]
        figures = _prediction_figures(rows)
        sections = [_errors_section(failed), _prediction_histogram(scored)]
    else:
        figures = _evaluation_figures(rows, metrics)
        titles = {name: TERM_TITLES[name] for name in calibrations.terms}
        sections = [
            _metrics_section(metrics["fusion"], metrics["published"], titles),
            _histogram_section(rows, titles),
        ]
    sections += [
        gallery(worst_first(cases)),
        _settings(command, config, calibrations, metrics),
    ]
    content = f'<dl class="figures">{"".join(figures)}</dl>\n{_threshold_notes(calibrations)}'
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
        for word in (decision_word(True), decision_word(False), UNREADABLE)
        if word != UNREADABLE or UNREADABLE in decisions
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


def _figure(label: str, value: str, detail: str) -> str:
    content = f"{escape(value)}<small>{escape(detail)}</small>"
    return f"<div><dt>{escape(label)}</dt><dd>{content}</dd></div>"


def _threshold_notes(calibrations: Calibrations) -> str:
    return "".join(_threshold_note(name, one) for name, one in calibrations)


def _threshold_note(kind: str, calibration: Calibration) -> str:
    of = f" of {escape(kind)}" if kind else ""
    note = (
        f"Images{of} that score above <b>{calibration.threshold:.4g}</b> are called anomalous. The "
        f"threshold comes from {_count(calibration.num_normals, 'normal image')} for a "
        f"false-alarm rate of {100 * calibration.false_positive_rate:.3g} %; "
    )
    if calibration.held_out:
        rate = 100 * calibration.guaranteed_false_positive_rate
        note += f"that many can guarantee {rate:.3g} %, whatever the distribution."
    else:
        note += "the model was trained on them, so expect more false alarms than that."
    if calibration.left_out:
        few = _count(calibration.left_out, "image")
        note += f" {few} that scored far above the others did not count: look for mistakes there."
    unsure = doubt(calibration)
    if unsure:
        note += f" <b>{unsure[0].upper()}{unsure[1:]}.</b>"
    return f'<p class="note">{note}</p>'


def _metrics_section(fusion: Mapping[str, Any], published: bool, titles: Mapping[str, str]) -> str:
    def note(kind: str) -> str:
        return escape(_FUSION_NOTES[kind].format(terms=" plus ".join(titles.values())))

    tables = [
        f"<h3>{escape(fusion_title(kind, published))}</h3><p>{note(kind)}</p>{_table(table)}"
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


def _histogram_section(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    names = {title: name for name, title in titles.items()}
    names["image score"] = "image_score_calibrated"
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

    plots = []
    for kind in sorted({row["component"] for row in rows}):
        ours = [row for row in rows if row["component"] == kind]
        plot = _histogram(ours, {"image score": "image_score"}, is_anomalous)
        plots.append(f"<figure><figcaption>{escape(kind)}</figcaption>{plot}</figure>")
    legend = _LEGEND.format("called normal", "called anomalous")
    return f"<section><h2>Scores</h2>{legend}{''.join(plots)}</section>"


def _histogram(
    rows: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    is_anomalous: Callable[[Mapping[str, Any]], bool],
) -> str:
    def values(anomalous: bool) -> dict[str, np.ndarray]:
        chosen = [row for row in rows if is_anomalous(row) == anomalous]
        return {label: np.array([row[column] for row in chosen]) for label, column in names.items()}

    thresholds = sorted({row["threshold"] for row in rows})
    return score_histogram(values(False), values(True), thresholds)


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
