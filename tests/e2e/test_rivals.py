"""Other detectors by the same commands: trained, gone on with, evaluated."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import invad_jax
from invad_jax.config.io import load
from invad_jax.paradigms import objective_of, paradigm_of
from tests.commands import PROJECT, TINY_DIT

CONFIGS = sorted((PROJECT / "configs" / "rivals").glob("*.py"))
STEPS = 12


def arguments(config: Path, workdir: Path) -> list[str]:
    """Of `train`: that config in small, on the procedural set."""
    tiny = [option for option in TINY_DIT if "encoder" not in option]
    data = ["data.name=procedural", "data.root=", "data.categories=all", "encoder.weights=random"]
    if config.stem == "omiad":
        data.append(f"train.teacher={workdir.parent / 'rival_masked_adaptive'}")
    return ["train", "--config", str(config), "--workdir", str(workdir), "--set", *tiny, *data]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_each_config_names_what_it_is(config):
    found = load(config)
    assert found.train.objective in (config.stem, "diffusion")
    paradigm_of(found)
    objective_of(found)


def final_arrays(run: Path) -> list[object]:
    """The parameters of the last step, and their averages."""
    models = [invad_jax.load(run, [f"inversion.use_ema={ema}"]) for ema in ("false", "true")]
    assert [model.step for model in models] == [STEPS, STEPS]
    return [jax.device_get(model.network) for model in models]


def test_a_teacher_has_to_be_one(commands, trained):
    config = PROJECT / "configs" / "rivals" / "omiad.py"
    for i, (teacher, message) in enumerate(
        (
            ("", "give train.teacher=WORKDIR"),
            ("absent", "absent"),
            (str(trained), "was trained with another d"),  # denoiser, or diffusion
        )
    ):
        run = commands.folder / f"no_teacher_{i}"
        said = commands.refused(*arguments(config, run), f"train.teacher={teacher}")
        assert message in said


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_train_resume_and_evaluate(config, commands):
    """A training that lost its last checkpoints ends with the same bits."""
    run = commands.folder / f"rival_{config.stem}"
    teacher = commands.folder / "rival_masked_adaptive"
    if config.stem == "omiad" and not teacher.exists():
        commands.here(*arguments(config.with_stem("masked_adaptive"), teacher))
    commands.run(*arguments(config, run))
    expected = final_arrays(run)
    for step in sorted(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit())[
        1:
    ]:
        shutil.rmtree(run / "checkpoints" / str(step))
    commands.run(*arguments(config, run))
    jax.tree.map(np.testing.assert_array_equal, final_arrays(run), expected)
    commands.here("eval", "--workdir", str(run), "--no-speed")
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    assert metrics["nfe"] == paradigm_of(load(config)).nfe
    assert 0 <= metrics["fusion"]["calibrated"]["mean"]["i_auroc"] <= 1
