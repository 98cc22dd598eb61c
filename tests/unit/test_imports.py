"""The floors of the house, kept over the syntax trees; see CONTRIBUTING.md."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "invad_jax"
COMMANDS = {"train", "eval", "predict", "train_vae", "convert", "build_dataset", "compare", "sweep",
            "plan", "export", "calibrate", "doctor", "serve", "benchmark", "push", "pull",
            "__main__"}  # fmt: skip
FLOORS = [
    {"errors", "version", "diffusion", "geometry", "scoring", "metrics"},
    {"config", "io", "coordinates", "detector"},
    {"data", "normality", "encoders", "denoisers", "paradigms"},
    {"runtime", "report", "converters"},
    {"inference", "sweeps"},
    {"training", "evaluation"},
    {"planning", "serving"},
    {"benchmarks"},
    COMMANDS,
]
"""Units of the package, from the ground up; each imports itself and the floors below it."""
WITHOUT_JAX = {"errors", "version", "metrics", "config", "io", "data", "normality", "report"}
MATHS = {"diffusion", "geometry", "scoring", "coordinates"}
"""JAX and NumPy, and nothing of networks, files or the config."""
COMPILES = COMMANDS | {"inference", "training", "planning", "evaluation", "benchmarks"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> tuple[set[str], set[str]]:
    """(units of the package, top-level names from outside the standard library)."""
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


def test_every_unit_has_a_floor_and_every_name_exists():
    units = {unit(path) for path in MODULES} - {"__init__"}
    named = [name for floor in FLOORS for name in floor]
    assert len(named) == len(set(named))
    assert units == set(named)


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(PACKAGE)) for p in MODULES])
def test_floors(path):
    inside, outside = imports(path)
    ours = unit(path)
    if ours == "__init__":
        return  # `invad_jax.load`, imported when asked for
    floor = next(i for i, names in enumerate(FLOORS) if ours in names)
    below = set().union(*FLOORS[:floor])
    if floor in (1, 2):  # low rooms use their neighbours' plain parts; no circle, see below
        below |= FLOORS[floor]
    assert inside <= below | {ours}
    if ours in WITHOUT_JAX:
        assert not outside & {"jax", "flax", "optax", "orbax"}
    if ours in MATHS:
        assert outside <= {"jax", "numpy"}
        assert inside <= {"diffusion", "scoring"}


def test_no_circle():
    arrows = {}
    for path in MODULES:
        if unit(path) != "__init__":
            arrows.setdefault(unit(path), set()).update(imports(path)[0] - {unit(path)})
    while arrows:
        leaves = {name for name, targets in arrows.items() if not targets & arrows.keys()}
        assert leaves, f"a circle among {sorted(arrows)}"
        arrows = {name: targets for name, targets in arrows.items() if name not in leaves}


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(PACKAGE)) for p in MODULES])
def test_jit_is_at_the_edge(path):
    if unit(path) not in COMPILES:
        jits = [
            node for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and node.attr in ("jit", "pmap")
            and isinstance(node.value, ast.Name) and node.value.id == "jax"
        ]  # fmt: skip
        assert not jits, "compile in the commands, inference, training or planning"
