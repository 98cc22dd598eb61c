"""The import rule of the house, kept over the syntax trees; see CONTRIBUTING.md."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "invad_jax"
CONFIG = {"config", "config_io", "config_ranges"}
STDLIB_ONLY = CONFIG | {"errors", "files", "downloads", "cli", "__init__"}
MATHS = {"diffusion", "scoring"}
LEARNT = {"reference"}
"""From the host to the devices."""
NETWORKS = {"denoisers", "encoders"}
HOST = {
    "data",
    "calibration",
    "metrics",
    "gaussian",
    "prior",
    "memory",
    "baselines",
    "clusters",
    "report",
    "figures",
    "page",
    "page_style",
    "evaluations",
    "ground_truth",
    "sweep_grid",
    "sweep_table",
    "tensor_files",
}
MAINS = {
    "build_dataset",
    "train",
    "train_vae",
    "eval",
    "predict",
    "export",
    "convert",
    "benchmark",
    "sweep",
    "compare",
    "plan",
}
LAYER_3 = MAINS | {"training", "inference", "encoding"}

ALLOWED_OUTSIDE = {
    "maths": {"jax", "numpy"},
    "networks": {"jax", "flax", "numpy"},
    "learnt": {"jax", "numpy"},
    "host": {"numpy", "scipy", "matplotlib", "PIL", "grain", "tensorflow_datasets", "absl",
             "ml_dtypes"},
}  # fmt: skip
ALLOWED_INSIDE = {
    "stdlib": CONFIG | {"errors", "files"},
    "maths": {"diffusion"},
    "networks": STDLIB_ONLY | NETWORKS | {"tensor_files"},
    "host": STDLIB_ONLY | HOST,
    "learnt": STDLIB_ONLY | {"prior", "memory", "baselines", "scoring"},
}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """(units of the package, top-level names from outside the standard library)."""
    import sys

    inside, outside = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
            if node.module == "invad_jax":
                names = [f"invad_jax.{alias.name}" for alias in node.names]
        for name in names:
            top, *rest = name.split(".")
            if top == "invad_jax":
                inside |= set(rest[:1])
            elif top not in sys.stdlib_module_names:
                outside.add(top)
    return inside, outside


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(PACKAGE)) for p in MODULES])
def test_layers(path):
    inside, outside = imports(path)
    inside -= {unit(path)}
    for layer, members in [
        ("stdlib", STDLIB_ONLY - {"__init__"}), ("maths", MATHS), ("networks", NETWORKS),
        ("host", HOST), ("learnt", LEARNT),
    ]:  # fmt: skip
        if unit(path) in members:
            assert outside <= ALLOWED_OUTSIDE.get(layer, set())
            assert inside <= ALLOWED_INSIDE[layer]
    if unit(path) in MAINS:
        assert not inside & MAINS, "mains do not import each other"


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(PACKAGE)) for p in MODULES])
def test_jit_is_at_the_edge(path):
    if unit(path) not in LAYER_3:
        jits = [
            node for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and node.attr in ("jit", "pmap")
            and isinstance(node.value, ast.Name) and node.value.id == "jax"
        ]  # fmt: skip
        assert not jits, "compile in the mains, in training or in inference"
