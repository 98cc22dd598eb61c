"""Options: typed, checked, and wrong ones answered with the nearest right ones."""

import contextlib
import dataclasses
import json
import re
import typing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invad_jax.config import Config, DiffusionConfig, option_names, option_text, ranges
from invad_jax.config import io as config_io
from invad_jax.config.io import from_dict, frozen_differences, override, to_dict
from invad_jax.config.names import metadata
from invad_jax.diffusion.schedule import alpha_bar_schedule
from invad_jax.errors import UserError


def test_values_are_typed_by_the_annotations():
    config = override(
        Config(),
        ["train.num_steps=1_000", "train.learning_rate=1e-3", "data.categories=a, b",
         "denoiser.remat=true", "inversion.spacing=paper", "data.root=x=y",
         "scoring.terms=nll,map_max"],
    )  # fmt: skip
    assert config.train.num_steps == 1000
    assert config.train.learning_rate == 1e-3
    assert config.data.categories == ("a", "b")
    assert config.denoiser.remat is True
    assert config.inversion.spacing == "paper"
    assert config.data.root == "x=y"
    assert config.scoring.terms == ("nll", "map_max")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("inversion.num_step=5", r"inversion\.num_steps"),
        ("num_steps=5", "section.option=value"),
        ("inference.num_steps=5", r"did you mean .*inversion\.num_steps"),
        ("train.num_steps=abc", "whole number"),
        ("train.num_steps=1.5", "whole number"),
        ("train.learning_rate=fast", "a number"),
        ("denoiser.remat=maybe", "true or false"),
        ("inversion.spacing=even", "linspace, paper"),
        ("inversion.num_steps=-1", "at least 0"),
        ("inversion.num_steps=1001", "at most"),
        ("calibration.false_positive_rate=2", "at most 1"),
        ("data.categories=", "empty"),
        ("scoring.terms=nll,map_rnage", "nll, map_range, map_mean, map_max, map_top"),
    ],
)
def test_a_wrong_option_is_one_line_that_helps(assignment, message):
    with pytest.raises(UserError, match=message) as caught:
        override(Config(), [assignment])
    assert "\n" not in str(caught.value)


def test_every_number_has_a_range_and_its_default_lies_within():
    numbers = set()
    for name in option_names():
        section, option = name.split(".")
        kind = typing.get_type_hints(type(getattr(Config(), section)))[option]
        if kind in (int, float, tuple[int, ...], tuple[float, ...]):
            numbers.add(name)
    assert numbers == set(ranges.RANGES)
    ranges.validate(Config())


@pytest.mark.parametrize("name", sorted(ranges.RANGES))
@pytest.mark.parametrize("value", ["-1e308", "1e308", "inf", "nan", "-2", "1" + "0" * 400])
def test_no_number_is_without_bounds(name, value):
    if value == "-2":
        value = str(ranges.RANGES[name].least - 1)
    with pytest.raises(UserError, match=re.escape(name)) as caught:
        override(Config(), [f"{name}={value}"])
    assert len(str(caught.value)) < 1000


UNET = "denoiser.name=unet"
WHITE = ("train.latent_stats=whiten", "diffusion.prediction=v")


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["train.learning_rate=0"], "above 0"),
        (["train.learning_rate=1e308"], "at most 1e\\+30"),
        (["train.seed=-1"], "at least 0"),
        (["train.seed=4294967296"], "at most 4294967295"),
        (["data.image_size=100000"], "at most 16384"),
        (["scoring.terms=nll,nll"], "nll is given twice"),
        (["data.categories=a,b,a"], "a is given twice"),
        ([UNET, "denoiser.attention_downsamplings=3"], "no level is downsampled by 3; .* 2, 4, 8"),
        ([UNET, "denoiser.attention_downsamplings=2,16"], "no level is downsampled by 16"),
        (["vae.decoder_attention=16"], "no level is downsampled by 16; the 4 levels"),
        ([UNET, "denoiser.channel_mult="], "1 to 15"),
        ([UNET, "denoiser.variants=pad_at_end,resample_in_blocks"], "exclude each other"),
        (["diffusion.num_timesteps=100000"], "nothing that a float32 can hold"),
        (["data.root=az://bucket/x"], "only local paths, gs:// and s3://"),
        ([*WHITE, "train.objective=transfusion"], "latent_stats=whiten takes diffusion"),
        (["train.objective=mad_ad", *WHITE[1:], WHITE[0]], "train.objective=mad_ad: .* diffusion"),
        (["encoder.weights=https://host/x"], "only local paths, gs:// and s3://"),
        (["data.root=" + "x" * 5000], "longer than 4096 bytes"),
    ],
)  # fmt: skip
def test_what_no_experiment_can_have_is_refused(assignments, message):
    *before, last = assignments
    config = override(Config(), before)
    with pytest.raises(UserError, match=message):
        override(config, [last])


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["denoiser.head_channels=32"], "denoiser.head_channels=32: .* where denoiser.name=unet"),
        (["denoiser.name=mlp", "denoiser.num_heads=4"], "where denoiser.name=dit|dit_diffusers"),
        (["diffusion.schedule=cosine", "diffusion.betas=1e-4,0.03"], "diffusion.schedule!=cosine"),
        (["inversion.noise_ratio=0.7"], r"where inversion.paradigm=reconstruction\|residual"),
        (["scoring.prior=standard_normal", "scoring.components=one"], "scoring.prior=fitted or"),
        (["whitening.radius=5"], "train.latent_stats=whiten and whitening.mean=retrieved or"),
    ],
)
def test_an_option_that_is_not_read_is_refused(tmp_path, assignments, message):
    with pytest.raises(UserError, match=message) as caught:
        override(Config(), assignments)
    assert "\n" not in str(caught.value)
    config = config_io.assign(Config(), assignments)
    assert from_dict(to_dict(config)) == config  # as a workdir may have it
    path = tmp_path / "config.py"
    path.write_text(
        "from invad_jax.config import Config\nfrom invad_jax.config.io import assign\n"
        f"def get_config(): return assign(Config(), {assignments})\n"
    )
    with pytest.raises(UserError, match=message):
        config_io.load(path)


def test_what_is_read_or_stays_at_its_default_is_taken():
    unet = override(Config(), [UNET, "denoiser.head_channels=32"])
    assert override(unet, ["denoiser.name=dit"]).denoiser.head_channels == 32  # set before
    assert override(unet, ["denoiser.name=dit", "denoiser.head_channels=64"]) == Config()
    white = override(Config(), [*WHITE, "scoring.prior=standard_normal", "scoring.components=one"])
    assert white.scoring.components == "one"


def test_where_an_option_is_read_names_options_and_values_that_there_are():
    for name in option_names():
        for part in re.split(" and | or ", metadata(name).get("where") or "train.seed=0"):
            section, other, values = re.fullmatch(r"(\w+)\.(\w+)!?=(.*)", part).groups()
            kind = typing.get_type_hints(type(getattr(Config(), section)))[other]
            known = typing.get_args(kind) or [option_text(Config(), f"{section}.{other}"), "0"]
            assert set(values.split("|")) <= set(known), name


def test_a_smaller_u_net_keeps_what_it_has_of_the_default_attention():
    assert override(Config(), [UNET, "denoiser.channel_mult=1,2"]).denoiser.name == "unet"


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "sigmoid"])
def test_the_sum_of_betas_is_that_of_the_schedule(schedule):
    diffusion = DiffusionConfig(schedule=schedule, num_timesteps=4000)
    alpha_bar = alpha_bar_schedule(schedule, 4000, (1e-4, 2e-2))
    # The estimate adds betas up, where alpha_bar multiplies 1 - beta.
    assert ranges._exponent(diffusion) == pytest.approx(-np.log(alpha_bar[-1]), rel=0.02)


def test_json_round_trip():
    config = override(Config(), ["data.categories=a,b", UNET, "denoiser.channel_mult=1,2"])
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    "values",
    [{"trian": {}}, {"train": {"num_stepz": 1}}, {"train": {"num_steps": "1"}}, {"train": 3},
     {"train": {"num_steps": True}}, {"data": {"categories": [1]}},
     {"train": {"learning_rate": 10**400}}, {"train": {"num_steps": 10**400}},
     {"data": {"root": "a\0b"}}, {"data": {"name": []}}],
)  # fmt: skip
def test_unknown_or_mistyped_json_is_refused(values):
    with pytest.raises(UserError):
        from_dict(values)


def test_only_what_decides_the_parameters_is_frozen():
    free = override(
        Config(), ["data.root=/elsewhere", "inversion.num_steps=9", "train.checkpoint_every=1"]
    )
    assert frozen_differences(free, Config()) == []
    (difference,) = frozen_differences(override(Config(), ["train.seed=1"]), Config())
    assert difference == "train.seed is 1, was 0"


def test_every_option_says_what_it_is_or_has_a_plain_name():
    """Sections are documented, and every option name is unique enough to be suggested."""
    for section in dataclasses.fields(Config):
        assert type(getattr(Config(), section.name)).__doc__, section.name
    assert len(option_names()) == len(set(option_names()))


@given(st.text(max_size=30))
def test_any_text_is_an_assignment_or_a_user_error(text):
    with contextlib.suppress(UserError):
        override(Config(), [text])


def test_config_files(tmp_path):
    good = tmp_path / "good.py"
    good.write_text("from invad_jax.config import Config\ndef get_config(): return Config()\n")
    assert config_io.load(good) == Config()
    for text, message in [
        ("def get_config(): return 1\n", "int, not Config"),
        ("raise RuntimeError('x')\n", "RuntimeError: x"),
        ("", "get_config"),
    ]:
        bad = tmp_path / "bad.py"
        bad.write_text(text)
        with pytest.raises(UserError, match=message):
            config_io.load(bad)
    with pytest.raises(UserError, match=r"did you mean good\.py"):
        config_io.load(tmp_path / "god.py")
