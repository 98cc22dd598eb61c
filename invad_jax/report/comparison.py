"""The page of `compare`, as Markdown."""

from __future__ import annotations

from typing import Any

from invad_jax.report.tables import METRICS, markdown_table


def markdown(result: dict[str, Any]) -> str:
    """The comparison as a page: the verdict first, then a section for each kind of difference."""
    lines = ["# Comparison of two evaluations", ""]
    for name in ("a", "b"):
        device = result[name]["device"] or "device not stated"
        paradigm, precision = result[name]["paradigm"], result[name]["precision"]
        by = f", compared by {_code(paradigm)}" if paradigm else ""
        by += f", in {_code(precision)}" if precision else ""
        lines.append(f"- {name.upper()}: {_code(result[name]['source'])}, {device}{by}")
    known = {result[name]["precision"] for name in ("a", "b")} - {None}
    if len(known) > 1:
        lines.append("- Another precision: what differs below may be rounding, and nothing else.")
    lines += _unlike(result["unlike"])
    matched = f"matched by the last {result['matched_path_components']} parts of their paths"
    lines += [f"- {result['images']} images, {matched}", "", "## Verdict", ""]
    lines += [f"- {line}" for line in result["past_tolerances"]] or ["Within the tolerances."]
    lines += ["", "## Scores of the same images", ""]
    lines += _score_table(result["scores"])
    for fusion in dict.fromkeys(row["fusion"] for row in result["metrics"]):
        lines += ["", f"## Metrics, {fusion}, in percent", ""]
        lines += _metric_table([row for row in result["metrics"] if row["fusion"] == fusion])
    if result["decisions"]:
        flips, compared = result["decisions"]["flips"], result["decisions"]["compared"]
        lines += ["", f"## Decisions: {len(flips)} of {compared} flip"] + [""] * bool(flips)
        lines += [f"- {_code(row['path'])}: {row['a']} in A, {row['b']} in B" for row in flips]
    if result["speed"]:
        rows = [
            [name, f"{row['a']:.4g}", f"{row['b']:.4g}", f"{row['ratio']:.3g}"]
            for name, row in result["speed"].items()
        ]
        lines += ["", "## Speed", "", *markdown_table(["", "A", "B", "B / A"], rows)]
    return "\n".join(lines).rstrip() + "\n"


def _unlike(found: dict[str, list[Any]]) -> list[str]:
    """One line where A and B are not of one model and one config."""
    if not found:
        return []
    pairs = [f"{name} {_code(str(a))} and {_code(str(b))}" for name, (a, b) in found.items()]
    hashed = " (any option makes another hash, a path or a precision too)"
    hashed = hashed if "config_hash" in found else ""
    return [f"- Not of one model with one config: {', '.join(pairs)}{hashed}."]


def _score_table(scores: dict[str, dict[str, Any]]) -> list[str]:
    header = (
        *("score", "largest difference", "of the spread", "mean difference", "of the spread"),
        *("rank correlation", "furthest apart"),
    )
    names = ("max", "max_of_spread", "mean", "mean_of_spread")
    rows = [
        [
            term,
            *(f"{row[name]:.3g}" for name in names),
            "-" if row["rank_correlation"] is None else f"{row['rank_correlation']:.6f}",
            _code(row["worst"]),
        ]
        for term, row in scores.items()
    ]
    return markdown_table(header, rows)


def _metric_table(rows: list[dict[str, Any]]) -> list[str]:
    """The means of A and B, then B - A of each category and of the mean."""
    names = [name for name in METRICS if any(row["metric"] == name for row in rows)]
    cell = {(row["category"], row["metric"]): row for row in rows}

    def line(title: str, category: str, key: str, form: str) -> list[str]:
        values = [cell.get((category, name), {}).get(key) for name in names]
        return [title, *("-" if v is None else format(100 * v, form) for v in values)]

    categories = dict.fromkeys(row["category"] for row in rows)
    body = [
        line("mean, A", "mean", "a", ".2f"),
        line("mean, B", "mean", "b", ".2f"),
        *(line(f"B - A, {name}", name, "difference", "+.2f") for name in categories),
    ]
    return markdown_table(["", *names], body)


def _code(text: str) -> str:
    """A path as code that no character of it breaks out of."""
    printable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "`" + printable.replace("`", "'").replace("\n", " ") + "`"
