"""One command with the verbs of the others: `invad predict ...`, `python -m invad_jax predict ...`.

invad VERB --help
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from invad_jax.errors import what_there_is
from invad_jax.version import __version__

VERBS = {
    "train": "a detector, from normal images",
    "eval": "every metric, on a labelled test set",
    "predict": "a decision and a picture for each new image",
    "calibrate": "thresholds by the line's own good images; what has moved",
    "export": "the detector as one file; checks such a file",
    "push": "a detector to the Hugging Face hub, with a model card",
    "pull": "a detector from there",
    "serve": "the page of a line, and its JSON interface",
    "doctor": "what this machine can do, and how long training takes",
    "train_vae": "a first stage of your own",
    "convert": "published checkpoints to a workdir",
    "compare": "two evaluations of one test set",
    "sweep": "a grid of options over seeds",
    "build_dataset": "any layout as ArrayRecord",
    "plan": "what a TPU slice would do, without one",
    "benchmark": "how fast a detector is here, and beside PyTorch",
}
"""Module -> what it does; each has a `cli`."""


def cli(argv: Sequence[str] | None = None) -> int:
    """Runs a verb with the arguments behind it; returns the exit status."""
    verb, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if verb in ("-h", "--help"):
        width = max(map(len, VERBS))
        print("invad VERB [options]; invad VERB --help says which\n")
        print("\n".join(f"  {name:{width}}  {what}" for name, what in VERBS.items()))
        return 0
    if verb == "--version":
        print(__version__)
        return 0
    name = verb.replace("-", "_")
    if name not in VERBS:
        print(f"error: {verb}: no such verb{what_there_is(verb, VERBS)}", file=sys.stderr)
        return 2
    sys.argv[0] = f"invad {verb}"  # which usage lines name
    status: int = importlib.import_module(f"invad_jax.{name}").cli(rest)
    return status


if __name__ == "__main__":
    sys.exit(cli())
