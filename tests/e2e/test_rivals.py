"""Other detectors by the same commands: trained, gone on with, killed, evaluated, compared."""

import json
import signal
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
import pytest

from invad_jax.config.io import load
from invad_jax.paradigms import objective_of, paradigm_of
from tests.commands import (
    PROJECT,
    TINY_DIT,
    Commands,
    final_arrays,
    unfinished_copy,
    wait_for_progress,
)

CONFIGS = sorted((PROJECT / "configs" / "rivals").glob("*.py"))
RUNS: dict[str, tuple[Path, tuple[str, ...]]] = {path.stem: (path, ()) for path in CONFIGS}
OMIAD = PROJECT / "configs" / "rivals" / "omiad.py"
RUNS["omiad_adversarial"] = (OMIAD, ("train.objective=omiad_adversarial",))
BY_PARADIGM = {load(path).inversion.paradigm: path.stem for path in reversed(CONFIGS)}
"""One that is evaluated by each paradigm."""
RESUMED = ("omiad_adversarial", "transfusion")
"""A teacher and two that learn from it; three heads. `make test-kills` kills each of all."""
EVALUATED_HERE = ("deco_diff", "diad", "mad_ad", "omiad", "transfusion")
"""In `make test`, on the devices of one process."""
BY_TWO = ("mad_ad", "transfusion")
"""In `make test`; the others in `make test-kills`."""


def each(names: Iterable[str], always: tuple[str, ...]) -> list[object]:
    """All names; those that are not `always` tested, for `make test-kills`."""
    rest = pytest.mark.long
    return [name if name in always else pytest.param(name, marks=rest) for name in sorted(names)]


TEACHERS = {
    "omiad": "masked_adaptive",
    "omiad_adversarial": "masked_adaptive",
    "one_step": "inversion",
}
STEPS = 12
EVALUATED = ("inversion.use_ema=false",)


def arguments(name: str, workdir: Path) -> list[str]:
    """Of `train`: that config in small, on the procedural set."""
    config, options = RUNS[name]
    tiny = [option for option in TINY_DIT if "encoder" not in option]
    data = ["data.name=procedural", "data.root=", "data.categories=all", "encoder.weights=random"]
    if name in TEACHERS:
        data.append(f"train.teacher={workdir.parent / f'rival_{TEACHERS[name]}'}")
    command = ["train", "--config", str(config), "--workdir", str(workdir)]
    return [*command, "--set", *tiny, *data, *options]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_each_config_names_what_it_is(config):
    found = load(config)
    assert found.train.objective in (config.stem, "diffusion")
    paradigm_of(found)
    objective_of(found)


def test_a_teacher_has_to_be_one(commands, trained):
    for i, (teacher, message) in enumerate(
        (
            ("", "give train.teacher=WORKDIR"),
            ("absent", "absent"),
            (str(trained), "was trained with another d"),  # denoiser, or diffusion
        )
    ):
        run = commands.folder / f"no_teacher_{i}"
        said = commands.refused(*arguments("omiad", run), f"train.teacher={teacher}")
        assert message in said


def metrics_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def evaluated(commands):
    """name -> its workdir, trained after its teacher, and evaluated."""

    def get(name: str) -> Path:
        run = trained_rival(commands, name)
        if not (run / "eval").exists():
            commands.here("eval", "--workdir", str(run), "--no-speed")
        return run

    return get


def trained_rival(commands: Commands, name: str) -> Path:
    """Its workdir, trained once on the devices of this process, after its teacher."""
    run = commands.folder / f"rival_{name}"
    if not run.exists():
        if name in TEACHERS:
            trained_rival(commands, TEACHERS[name])
        commands.here(*arguments(name, run))
    return run


@pytest.mark.parametrize("name", RESUMED)
def test_training_goes_on_from_a_checkpoint_to_the_same_parameters(name, commands):
    whole = trained_rival(commands, name)
    run = unfinished_copy(whole, commands.folder / f"resumed_{name}")
    assert "resumed at step 8" in commands.here(*arguments(name, run)).stderr
    found, expected = (final_arrays(path, STEPS, EVALUATED) for path in (run, whole))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(RUNS))
def test_a_kill_changes_nothing(name, commands):
    """SIGKILL after a checkpoint; the same command goes on, to the same bits."""
    expected = final_arrays(trained_rival(commands, name), STEPS, EVALUATED)
    run = commands.folder / f"killed_{name}"
    as_here = {"devices": jax.device_count()}
    job = commands.start(*arguments(name, run), **as_here)
    wait_for_progress(job, run)
    job.kill()
    job.communicate(timeout=120)
    assert job.returncode in (-signal.SIGKILL, 0)  # 0: it was faster
    commands.run(*arguments(name, run), **as_here)
    found = final_arrays(run, STEPS, EVALUATED)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", each(BY_PARADIGM.values(), EVALUATED_HERE))
def test_each_is_evaluated_by_its_paradigm(name, evaluated):
    found = metrics_of(evaluated(name) / "eval")
    assert found["nfe"] == paradigm_of(load(RUNS[name][0])).nfe
    assert found["paradigm"] == load(RUNS[name][0]).inversion.paradigm
    assert 0 <= found["fusion"]["calibrated"]["mean"]["i_auroc"] <= 1


@pytest.mark.parametrize("name", each(BY_PARADIGM.values(), BY_TWO))
def test_two_processes_evaluate_as_one(name, commands, evaluated):
    run, out = evaluated(name), commands.folder / f"by_two_{name}"
    commands.run("eval", "--workdir", str(run), "--no-speed", "--out", str(out), processes=2)
    # Sums over devices round in another order; that is far below what a rank can see.
    compared = commands.here(
        "compare", str(run), str(out), "--tolerance-metric", "1e-6", "--tolerance-score", "1e-3"
    )
    assert "Within the tolerances" in compared.stdout


def test_a_class_is_none_given_or_inferred(commands, evaluated):
    run = evaluated("deco_diff_class")
    found = {"none": (run / "eval" / "scores.csv").read_text()}  # unless it is told
    for label in ("1", "inferred"):
        out = commands.folder / f"label_{label}"
        told = ["--set", f"inversion.label={label}"]
        commands.here("eval", "--workdir", str(run), "--no-speed", "--out", str(out), *told)
        found[label] = (out / "scores.csv").read_text()
    assert len(set(found.values())) == 3
    said = commands.refused("eval", "--workdir", str(evaluated("deco_diff")), *told)
    assert "this network takes no class" in said


def test_two_rivals_are_compared(commands, evaluated):
    a, b = evaluated("mad_ad"), evaluated("deco_diff")
    said = commands.here(
        "compare", str(a), str(b), "--tolerance-score", "inf", "--tolerance-metric", "1",
        "--allow-flips", "1000",
    ).stdout  # fmt: skip
    assert "compared by `mad_ad`" in said
    assert "compared by `deco_diff`" in said
    assert "compared by deco_diff" in (b / "eval" / "report.html").read_text()
