"""Which configs a workdir serves, and where it keeps what normal images gave."""

import json

import pytest

from invad_jax.config import Config
from invad_jax.config.io import assign, override, to_dict
from invad_jax.errors import UserError
from invad_jax.paradigms import paradigm_of
from invad_jax.runtime.workdir import Workdir, scoring_key
from invad_jax.version import __version__

HALF = override(Config(), ["denoiser.dtype=bfloat16"])


@pytest.fixture
def workdir(tmp_path):
    """Claimed by the defaults, so trained in float32."""
    workdir = Workdir(tmp_path / "run")
    workdir.claim(Config(), write=True)
    return workdir


def test_another_type_of_activations_may_evaluate_but_not_train_on(workdir):
    assert workdir.resolve(None, ["denoiser.dtype=bfloat16"]) == HALF
    with pytest.raises(UserError, match=r"denoiser\.dtype is 'bfloat16', was 'auto'"):
        workdir.claim(HALF, write=True)
    assert workdir.read_config() == Config()
    workdir.claim(override(Config(), ["denoiser.dtype=float32"]), write=True)  # the same training


def test_a_training_goes_on_with_other_evaluation_options(workdir):
    changed = override(Config(), ["inversion.num_steps=7", "data.root=elsewhere"])
    workdir.claim(changed, write=True)
    assert workdir.read_config() == changed


@pytest.mark.parametrize("assignment", ["denoiser.width=64", "diffusion.betas=1e-4,0.01"])
def test_what_decided_the_parameters_is_never_another(workdir, assignment):
    with pytest.raises(UserError, match="was trained with another config"):
        workdir.resolve(None, [assignment])


def test_the_range_of_pixels_that_training_found_is_adopted(tmp_path):
    found = override(Config(), ["data.value_range=0,4095"])
    workdir = Workdir(tmp_path / "run")
    assert workdir.adopt(Config()) == Config()  # nothing is there yet
    workdir.claim(found, write=True)
    assert workdir.adopt(Config()) == workdir.resolve(None, []) == found
    assert workdir.adopt(override(Config(), ["data.value_range=0,1"])).data.value_range == (0, 1)
    with pytest.raises(
        UserError, match=r"data\.value_range is \(0\.0, 65535\.0\), was \(0\.0, 4095"
    ):
        workdir.resolve(None, ["data.value_range=0,65535"])


def folder(workdir, config, step):
    return workdir.normals(config, paradigm_of(config), step, {"dataset": "abc"})


def test_scores_of_normals_are_kept_apart_by_all_that_decides_them(workdir):
    configs = [Config(), HALF, override(Config(), ["inversion.num_steps=7"]),
               override(Config(), ["scoring.prior=standard_normal"]),
               override(Config(), ["scoring.components=one"]),
               override(Config(), ["inversion.paradigm=padim"])]  # fmt: skip
    folders = {folder(workdir, config, step) for config in configs for step in (1, 2)}
    assert len(folders) == 2 * len(configs)
    unrelated = override(HALF, ["eval.batch_size=1", "data.root=elsewhere", "scoring.terms=nll"])
    assert folder(workdir, unrelated, 1) == folder(workdir, HALF, 1)
    without_effect = assign(HALF, ["inversion.noise_ratio=0.25"])
    assert folder(workdir, without_effect, 1) == folder(workdir, HALF, 1)
    assert (
        json.loads(json.dumps(scoring_key(HALF, paradigm_of(HALF), 1, {})))["dtype"] == "bfloat16"
    )


def test_an_older_config_lacks_newer_options(workdir):
    values = to_dict(Config())
    del values["denoiser"]["dtype"]
    workdir.config.write_text(json.dumps(values))
    assert workdir.read_config() == Config()


def test_two_trainings_do_not_share_a_workdir(workdir):
    with pytest.raises(UserError, match="another training is at work there"):
        Workdir(workdir.path).claim(Config(), write=True)
    Workdir(workdir.path).claim(Config(), write=False)  # another process of the same training
    path = workdir.path
    del workdir._held
    Workdir(path).claim(Config(), write=True)


@pytest.mark.parametrize(
    ("version", "message"),
    [("99.0.1", r"was made by invad_jax 99\.0\.1, and this is .* train\.new: unknown option"),
     ("0.0.1", r"config\.json: train\.new: unknown option"), (None, "unknown option")],
)  # fmt: skip
def test_a_newer_workdir_is_named_as_newer(workdir, version, message):
    values = json.loads(workdir.config.read_text())
    assert values.pop("invad_jax") == __version__
    values["train"]["new"] = 1
    if version:
        values["invad_jax"] = version
    workdir.config.write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        workdir.read_config()


def test_a_config_that_is_no_object(workdir):
    workdir.config.write_text("[]")
    with pytest.raises(UserError, match="holds no options"):
        workdir.read_config()


def test_fewer_categories_than_were_trained_can_be_evaluated(tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.claim(override(Config(), ["data.categories=nut,bolt"]), write=True)
    fewer = workdir.resolve(None, ["data.categories=bolt", "data.root=elsewhere"])
    assert fewer.data.categories == ("bolt",)
    assert workdir.trained_on(fewer.data).categories == ("nut", "bolt")
    assert workdir.trained_on(fewer.data).root == "elsewhere"
    with pytest.raises(UserError, match=r"bolts: .* was not trained on it; did you mean bolt"):
        workdir.resolve(None, ["data.categories=bolts"])
    with pytest.raises(UserError, match=r"data\.categories is"):
        workdir.claim(fewer, write=True)
