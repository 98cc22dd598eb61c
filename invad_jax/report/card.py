"""The model card of a detector: what it is, was made of and is worth, from what the run knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from invad_jax.report import tables

_HEAD = {
    "library_name": "invad-jax",
    "license": "other",
    "license_name": "see-model-card",
    "tags": ["anomaly-detection", "industrial-inspection", "jax"],
}


def model_card(about: Mapping[str, Any], files: str) -> str:
    """Markdown with the header that the hub reads.

    Args:
      about: as in `model.json` of a bundle.
      files: name of the bundle that lies beside the card; empty: a workdir does.
    """
    config, calibration = about["config"], about["calibration"]
    kinds = ", ".join(name or "one kind" for name in calibration)
    parts = {
        "": f"# {about['workdir']}\n\nFinds anomalies in images of {kinds}, by diffusion inversion "
        "(invad_jax). Trained on normal images alone, at step "
        f"{about['step']}.",
        "Use": _use(files),
        "Data": _data(config, about["made_of"]),
        "Metrics": _metrics(about),
        "Limits": _limits(config, calibration),
        "Licences": "\n".join(f"- {what}: {said}" for what, said in about["licences"].items()),
        "Config": f"```json\n{json.dumps(config, indent=1)}\n```",
    }
    body = "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in parts.items())
    head = "\n".join(f"{name}: {json.dumps(value)}" for name, value in _HEAD.items())
    return f"---\n{head}\n---\n\n{body}\n"


def _use(files: str) -> str:
    what = f"DIR/{files}".rstrip("/")
    return (
        '```\npip install "invad-jax[hub]"\n'
        "invad pull --repo OWNER/NAME --out DIR\n"
        f"invad predict --model {what} --input IMAGES --out decisions\n```"
    )


def _data(config: Mapping[str, Any], made_of: Mapping[str, Any]) -> str:
    data, encoder = config["data"], config["encoder"]
    return (
        f"Layout `{data['name']}`, categories {', '.join(data['categories'])}, images of "
        f"{data['image_size']} pixels a side; their SHA-256 together "
        f"`{made_of.get('dataset') or 'not known'}`. Features of `{encoder['name']}`."
    )


def _metrics(about: Mapping[str, Any]) -> str:
    if not about["metrics"]:
        return "None: nobody has evaluated it under these options."
    table = tables.format_table(about["metrics"])
    made_by = about["made_by"]
    return (
        f"In percent, on the data set's own test images: `python -m invad_jax.eval --workdir "
        f"{about['workdir']}`, invad_jax {made_by['invad_jax']}, JAX {made_by['jax']}, seed "
        f"{about['config']['train']['seed']}, written down {about['exported'][:10]}.\n\n"
        f"```\n{table}\n```"
    )


def _limits(config: Mapping[str, Any], calibration: Mapping[str, Any]) -> str:
    promised = "\n".join(
        f"- {name or 'all'}: threshold {one['threshold']:.4g} by {one['num_normals']} normal "
        f"images, for a rate of false alarms of {100 * one['false_positive_rate']:g} %"
        for name, one in calibration.items()
    )
    return (
        "What was not among the normal images is anomalous to it: another camera, light or "
        "product. Set the thresholds anew by good images of your own line (`invad calibrate`) "
        f"before a decision counts, and look at what it misses.\n\n{promised}"
    )
