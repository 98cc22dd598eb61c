"""The section of decisions: what is missed, what is a false alarm, and the thresholds to move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from scipy import stats

from invad_jax.normality.calibration import Calibration
from invad_jax.normality.calibrations import Calibrations
from invad_jax.normality.promise import doubt, percent, position, promised_rate
from invad_jax.report.tables import TERM_TITLES, decision_word, verdict
from invad_jax.report.words import count

_CHANCE = 0.01  # of an alarm on false alarms that are as rare as was asked
Row = Mapping[str, Any]


def verdict_of(row: Row) -> str:
    """See `tables.verdict`."""
    return verdict(row["decision"] == decision_word(True), row.get("gt_label"))


def alarms(rows: Sequence[Row], false_positive_rate: float) -> list[str]:
    """What nobody may overlook, a line each: categories of which half or more is missed, or whose
    false alarms the asked rate does not explain (binomial, one chance in a hundred).

    Args:
      rows: labelled.
      false_positive_rate: asked, 0..1.
    """
    lines = []
    for category in sorted({row["category"] for row in rows}):
        found = Counter(verdict_of(row) for row in rows if row["category"] == category)
        anomalous, normal = found["found"] + found["missed"], found["passed"] + found["false alarm"]
        if anomalous and 2 * found["missed"] >= anomalous:
            lines.append(f"{category}: missed {found['missed']} of {anomalous} anomalous images")
        by_chance = stats.binom.sf(found["false alarm"] - 1, normal, false_positive_rate)
        if found["false alarm"] and by_chance < _CHANCE:
            lines.append(
                f"{category}: {found['false alarm']} of {normal} normal images are false alarms, "
                f"where {100 * false_positive_rate:.3g} % was asked for"
            )
    return lines


def alarm_box(lines: Sequence[str]) -> str:
    """The lines at the head of the page; nothing without lines."""
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="alarm" role="alert"><ul>{items}</ul></div>'


def section(rows: Sequence[Row], calibrations: Calibrations, labelled: bool) -> str:
    """The section; `rows` are of images that have a score."""
    table = _labelled_table(rows) if labelled else _unlabelled_table(rows, calibrations)
    kinds = [_kind(k, name, one) for k, (name, one) in enumerate(calibrations)]
    return (
        '<section id="decisions"><h2>Decisions</h2><p>Move a threshold: every count, mark and '
        'picture on this page follows. <span id="state"></span></p>'
        f'<div class="wide">{table}</div>'
        '<div class="shift"><label for="shift">all thresholds together <small>lower: fewer missed, '
        "more false alarms; in spreads of normal images</small></label>"
        '<input type="range" id="shift" min="-5" max="10" step="0.05" value="0">'
        '<button id="reset" type="button">back to the calibration</button></div>'
        f"{_legend(labelled)}{''.join(kinds)}</section>"
    )


def _legend(labelled: bool) -> str:
    ours = (
        '<i class="normal"></i> normal <i class="anomalous"></i> anomalous test images'
        if labelled
        else '<i class="anomalous"></i> new images'
    )
    return (
        f'<p>{ours} <i class="reference"></i> normal images that set the threshold '
        '<i class="line"></i> threshold. Each in percent of its own; what scores beyond the axis '
        "counts at its end.</p>"
    )


def _kind(k: int, name: str, calibration: Calibration) -> str:
    terms = "".join(
        f'<div class="term" data-term="{term.name}" data-title="{TERM_TITLES[term.name]}"></div>'
        for term in calibration.terms
    )
    title = f"<h3>{escape(name)}</h3>" if name else ""
    return (
        f'<div class="kind" id="kind-{k}">{title}<div class="plots"><div><div class="score"></div>'
        f'<input type="range" aria-label="threshold {escape(name)}"></div>{terms}</div>'
        f"<output></output>{_threshold_note(calibration)}</div>"
    )


def _threshold_note(calibration: Calibration) -> str:
    if not calibration.num_normals:
        return (
            f'<p class="note">The threshold of <b>{calibration.threshold:.4g}</b> was given; no '
            "normal image has set it, and no false-alarm rate is promised.</p>"
        )
    note = (
        f"Calibrated: images that score above <b>{calibration.threshold:.4g}</b> are called "
        f"anomalous. The threshold comes from {count(calibration.num_normals, 'normal image')} for "
        f"a false-alarm rate of {100 * calibration.false_positive_rate:.3g} %; "
    )
    if calibration.held_out:
        rate = 100 * calibration.guaranteed_false_positive_rate
        most = percent(promised_rate(calibration.num_normals, position(calibration)))
        note += (
            f"of new good images that score as they do, at most {rate:.3g} % lie above it on "
            f"average, and at 95 % at most {most} %, whatever the distribution."
        )
    else:
        note += "the model was trained on them, so expect more false alarms than that."
    if calibration.left_out:
        few = count(calibration.left_out, "image")
        note += f" {few} that scored far above the others did not count: look for mistakes there."
    unsure = doubt(calibration)
    if unsure:
        note += f" <b>{unsure[0].upper()}{unsure[1:]}.</b>"
    return f'<p class="note">{note}</p>'


def _labelled_table(rows: Sequence[Row]) -> str:
    names = ("found", "missed", "passed", "false alarm", "missed rate", "false alarm rate")
    head = (
        '<tr><th rowspan="2" scope="col">category</th><th colspan="2" scope="colgroup">anomalous '
        'images</th><th colspan="2" scope="colgroup">normal images</th><th colspan="2" '
        f'scope="colgroup">rates</th></tr><tr>{_heads(_LABELLED_HEADS)}</tr>'
    )
    categories = sorted({row["category"] for row in rows})
    body = "".join(
        _line(str(i), name, names, [row for row in rows if row["category"] == name])
        for i, name in enumerate(categories)
    )
    return _table(head, body, _line("all", "all", names, rows))


_LABELLED_HEADS = ("found", "missed", "passed", "false alarm", "missed", "false alarms")


def _heads(names: Sequence[str]) -> str:
    return "".join(f'<th scope="col">{name}</th>' for name in names)


def _unlabelled_table(rows: Sequence[Row], calibrations: Calibrations) -> str:
    names = ("images", "anomalous", "normal", "anomalous rate")
    heads = ("kind", "images", "called anomalous", "called normal", "anomalous")
    head = f"<tr>{_heads(heads)}</tr>"
    body = "".join(
        _line(str(k), name or "all", names, [row for row in rows if row["component"] == name])
        for k, (name, _) in enumerate(calibrations)
    )
    return _table(head, body, _line("all", "all", names, rows))


def _table(head: str, body: str, foot: str) -> str:
    return (
        f'<table class="decisions"><thead>{head}</thead><tbody>{body}</tbody>'
        f"<tfoot>{foot}</tfoot></table>"
    )


def _line(group: str, name: str, columns: Sequence[str], rows: Sequence[Row]) -> str:
    """A row of a table, which the script fills again when a threshold moves."""
    found = Counter(verdict_of(row) for row in rows)
    anomalous, normal = found["found"] + found["missed"], found["passed"] + found["false alarm"]
    texts = {
        **{word: str(found[word]) for word in columns},
        "images": str(len(rows)),
        "missed rate": _percent(found["missed"], anomalous),
        "false alarm rate": _percent(found["false alarm"], normal),
        "anomalous rate": _percent(found["anomalous"], len(rows)),
    }
    cells = "".join(f'<td data-count="{word}">{texts[word]}</td>' for word in columns)
    bad = ' class="bad"' if anomalous and 2 * found["missed"] >= anomalous else ""
    return f'<tr data-group="{group}"{bad}><th scope="row">{escape(name)}</th>{cells}</tr>'


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
