"""Other detectors' published files through the public path, against numbers of their own code.

The numbers were made with torch in float32: networks agree to 1e-4 of the largest value, and so do
the states of a walk (`../shared/RIVALS.md`, section 8). Nothing here needs torch.
"""

import jax
import numpy as np
import pytest

import invad_jax
from invad_jax.config.io import override
from invad_jax.convert import cli
from invad_jax.denoisers.layers import TimestepEmbedding
from invad_jax.denoisers.unet import UNIFORM
from invad_jax.denoisers.unet_ldm import Guide
from invad_jax.diffusion.schedule import alpha_bar_schedule
from invad_jax.errors import UserError
from invad_jax.paradigms import paradigm_of
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.paradigms.transfusion import beta_of
from invad_jax.paradigms.walk import falling_plan
from tests.golden import HINTS, nhwc, relative_error, unpacked

TOLERANCE = 1e-4
SIDES = {"deco-diff": 8, "transfusion": 32, "diad": 16}
"""Of the latents at hand; MAD-AD is left at its published 32, and takes others all the same."""


def assert_close(found, expected):
    assert relative_error(found, expected) < TOLERANCE


@pytest.fixture(scope="module")
def converted(golden_dir, tmp_path_factory):
    """system -> (model, numbers of a file of its folder by name), each converted once."""
    root, models = tmp_path_factory.mktemp("rivals"), {}

    def get(system):
        if system not in models:
            file, folder = unpacked(golden_dir, system, root)
            arguments = ["--from", system, "--input", str(file), "--workdir", str(root / system)]
            if system in HINTS:
                arguments += ["--num-heads", str(HINTS[system]["num_heads"])]
            if system in SIDES:
                arguments += ["--latent-size", str(SIDES[system])]
            if system == "diad":
                arguments += ["--text", str(folder / "network.npz")]
            assert cli(arguments) == 0
            models[system] = invad_jax.load(str(root / system)), folder
        model, folder = models[system]
        return model, lambda name: np.load(folder / f"{name}.npz")

    get.root = root
    return get


def workdir_of(converted, system):
    converted(system)
    return converted.root / system


@pytest.mark.parametrize("t", [0, 2, 4, 6, 8, 9, "mixed"])
def test_deviations_of_deco_diff(converted, t):
    model, numbers = converted("deco-diff")
    golden = numbers("network")
    when = golden["net_mixed_t"] if t == "mixed" else t
    found = model.outputs(nhwc(golden["x"]), when, golden["label"])
    key = "net_mixed" if t == "mixed" else f"net_t{t}"
    assert_close(found["deviation"], nhwc(golden[key]))


@pytest.mark.parametrize("num_steps", [3, 10])  # five: `test_rival_images.py`
def test_the_walk_of_deco_diff(converted, num_steps):
    model, numbers = converted("deco-diff")
    golden = numbers("inference")
    states = model.trajectory(nhwc(golden["x0"]), golden["label"], num_steps=num_steps)
    assert_close(states, nhwc(golden[f"ddim{num_steps}__states"]))


@pytest.mark.parametrize("num_steps", [2, 3, 4, 5, 10])
def test_the_levels_of_deco_diff(converted, num_steps):
    """All that its sampler knows of the schedule, in float64; ours is handed on in float32."""
    model, numbers = converted("deco-diff")
    golden = {
        key.removeprefix(f"ddim{num_steps}__"): value
        for key, value in numbers("schedule").items()
        if key.startswith(f"ddim{num_steps}__")
    }
    plan = falling_plan(override(model.config, [f"inversion.num_steps={num_steps}"]))
    timesteps, level, after = (np.asarray(part[::-1], np.float64) for part in plan)
    np.testing.assert_array_equal(timesteps, golden.pop("timestep_map"))
    np.testing.assert_allclose(level, golden.pop("alpha_bar"), rtol=1e-6)
    np.testing.assert_allclose(1 - level / after, golden.pop("betas"), rtol=1e-5)
    spread = np.sqrt(1 - level)
    np.testing.assert_allclose(spread, golden.pop("sqrt_one_minus_alpha_bar"), rtol=1e-6)
    of_x0 = (1 - np.sqrt(level)) / spread
    np.testing.assert_allclose(of_x0, golden.pop("deviation_coefficient"), rtol=1e-6)
    assert not golden


def test_the_levels_of_mddpm(golden_dir):
    """Which is not here otherwise: its cosine schedule of 1000 steps."""
    golden = np.load(golden_dir / "rivals" / "mddpm" / "numbers.npz")["alpha_bar"]
    found = alpha_bar_schedule("cosine", 1000)
    np.testing.assert_allclose(found, golden, rtol=1e-4, atol=1e-7)  # a float32 product


def test_its_levels_and_the_noise_that_a_deviation_stands_for(converted):
    """With x0_hat = x - r d, the noise is what is left of x."""
    model, numbers = converted("deco-diff")
    alpha_bar = alpha_bar_of(model.config)
    np.testing.assert_allclose(alpha_bar, numbers("schedule")["ddim10__alpha_bar"], rtol=1e-6)
    golden = numbers("network")
    x, t = nhwc(golden["x"]), 4
    signal, spread = np.sqrt(alpha_bar[t]), np.sqrt(1 - alpha_bar[t])
    deviation = model.outputs(x, t)["deviation"]
    x0_hat = x - spread * deviation
    noise = model.denoise(x, t)
    # Float32 sums of numbers near 1.
    np.testing.assert_allclose(signal * x0_hat + spread * noise, x, atol=1e-5)


def test_what_deco_diff_does_not_take_is_said(converted):
    model, numbers = converted("deco-diff")
    x = nhwc(numbers("network")["x"])
    assert not np.allclose(model.outputs(x, 4)["deviation"], model.outputs(x, 4, 1)["deviation"])
    for given, message in (
        ({"label": 3}, "label: expected numbers of 0..2"),
        ({"label": [0, 1]}, "label: expected 4 whole numbers"),
        ({"mask": x}, "mask: denoiser.name=unet_deco_diff takes no such thing"),
    ):
        with pytest.raises(UserError, match=message):
            model.outputs(x, 4, **given)
    with pytest.raises(UserError, match=r"takes 2, 3, 4, 5, 10"):
        model.trajectory(x, num_steps=7)


@pytest.mark.parametrize("t", [0, 4, 9])
def test_heads_of_mad_ad(converted, t):
    model, numbers = converted("mad-ad")
    golden = numbers("network")
    found = model.outputs(nhwc(golden["x"]), np.array([t]))
    assert_close(found["x0"], nhwc(golden[f"x0_t{t}"]))
    assert_close(found["mask"], nhwc(golden[f"mask_t{t}"]))


def test_the_walks_of_mad_ad(converted):
    model, numbers = converted("mad-ad")
    golden = numbers("inference")
    x0 = nhwc(golden["x0"])
    quiet = model.trajectory(x0, num_steps=5)
    assert_close(quiet, nhwc(golden["steps5_eta0__states"]))
    moved = np.any(quiet[1:] != quiet[:-1], axis=-1)
    np.testing.assert_array_equal(moved, golden["steps5_eta0__replaced"][:, :, 0] > 0.5)
    noise = nhwc(golden["steps10_eta0.5__noise"])
    states = model.trajectory(x0, num_steps=10, noise=noise)
    assert_close(states, nhwc(golden["steps10_eta0.5__states"]))
    moved = np.any(states[1:] != states[:-1], axis=-1)
    np.testing.assert_array_equal(moved, golden["steps10_eta0.5__replaced"][:, :, 0] > 0.5)


@pytest.mark.parametrize("t", [1, 7, 18, 19])
def test_heads_of_transfusion(converted, t):
    model, numbers = converted("transfusion")
    golden = numbers("network")
    found = model.outputs(nhwc(golden["x"]), t, mask=nhwc(golden["mask"]))
    assert sorted(found) == ["mask_logits", "mean", "noise"]
    for name, output in found.items():
        assert_close(output, nhwc(golden[f"t{t}__{name}"]))


@pytest.fixture(scope="module")
def walked(converted):
    """The states of TransFusion from its photographs."""
    model, numbers = converted("transfusion")
    return model.trajectory(nhwc(numbers("inference")["x"]), num_steps=18)


def test_the_walk_of_transfusion(converted, walked):
    model, numbers = converted("transfusion")
    golden, states = numbers("inference"), walked
    assert states.shape == (19, 4, 32, 32, 3)
    for i in range(4):
        assert_close(states[1:, i], nhwc(golden[f"image{i}__states"]))
    with pytest.raises(UserError, match="goes through all of its levels, 18"):
        model.trajectory(nhwc(golden["x"]), num_steps=9)


def test_the_masks_of_transfusion_on_its_walk(converted):
    """What is said at each state that the published code visited with its first image."""
    model, numbers = converted("transfusion")
    golden = numbers("inference")
    x0 = nhwc(golden["x"])[:1]
    theirs, states = (nhwc(golden[f"image0__{k}"]) for k in ("mask_probabilities", "states"))
    before = np.concatenate([x0, states[:-1]])
    mask = np.concatenate([0 * theirs[:1], theirs[:-1] > 0.5])
    logits = model.outputs(before, np.arange(18, 0, -1), mask=mask)["mask_logits"]
    said = 1 / (1 + np.exp(-logits))
    assert_close(said, theirs)
    assert_close(np.sum(said, axis=0)[..., 0] / 19, golden["discriminative"][0])


def test_the_end_of_the_walk_of_transfusion(converted, walked):
    _, numbers = converted("transfusion")
    golden = numbers("inference")
    image, restored = (np.clip(x / 2 + 0.5, 0, 1) for x in (nhwc(golden["x"]), walked[-1]))
    assert_close(restored, nhwc(golden["reconstruction_01"]))
    error = np.mean((image - restored) ** 2, axis=-1)
    np.testing.assert_allclose(error, golden["squared_error"], atol=TOLERANCE)


def test_what_transfusion_is_told_beside_the_image(converted):
    model, numbers = converted("transfusion")
    golden, width = numbers("network"), model.config.denoiser.width
    np.testing.assert_allclose(beta_of(20), golden["beta"], rtol=1e-6)
    embed = TimestepEmbedding(width, 4 * width, UNIFORM, np.float32, 1)
    found = embed.apply({"params": model.network["time_embedding"]}, np.array([7]))
    assert_close(found, golden["time_embedding_t7"])


def test_the_controls_of_diad(converted):
    model, numbers = converted("diad")
    golden = numbers("network")
    guide = Guide(model.config.denoiser)
    params = {"params": model.network["guide"]}
    t, text = np.full(2, 401), golden["text"]
    found = jax.jit(guide.apply)(params, nhwc(golden["z"]), t, nhwc(golden["hint"]), text)
    assert len(found) == 13
    for place in (0, 5, 8, 9, 10, 11, 12):
        assert_close(found[place], nhwc(golden[f"t401__control{place}"]))


def test_the_levels_of_diad(converted):
    model, numbers = converted("diad")
    golden, alpha_bar = numbers("inference"), alpha_bar_of(model.config)
    np.testing.assert_allclose(alpha_bar, numbers("network")["alpha_bar"], rtol=1e-5)  # a product
    timesteps = np.asarray(paradigm_of(model.config).timesteps)[::-1]
    np.testing.assert_array_equal(timesteps, golden["timesteps"])
    np.testing.assert_allclose(alpha_bar[timesteps], golden["alpha_bar"], rtol=1e-5)
    before = alpha_bar[[0, *timesteps[:-1]]]
    np.testing.assert_allclose(before, golden["alpha_bar_previous"], rtol=1e-5)


@pytest.mark.parametrize("t", [1, 401, 901])
def test_guided_noise_of_diad(converted, t):
    model, numbers = converted("diad")
    golden = numbers("network")
    z, hint = nhwc(golden["z"]), nhwc(golden["hint"])
    eps = model.outputs(z, t, image=hint)["eps"]
    assert_close(eps, nhwc(golden[f"t{t}__eps_published_mode"]))


def test_the_walk_of_diad(converted):
    model, numbers = converted("diad")
    golden = numbers("inference")
    hint = nhwc(numbers("network")["hint"])
    states = model.trajectory(nhwc(golden["z"]), noise=nhwc(golden["noise"]), image=hint)
    assert_close(states[0], nhwc(golden["x_T"]))
    for guidance in (1, 9):  # of equal conditions: 9 is nothing but rounding
        assert_close(states[1:], nhwc(golden[f"guidance{guidance}__states"]))


@pytest.mark.parametrize("system", ["deco-diff", "mad-ad", "diad"])
def test_each_can_be_inverted_instead(converted, system):
    x0 = np.random.default_rng(0).standard_normal((2, 16, 16, 4)).astype(np.float32)
    options = ["inversion.paradigm=inversion", "inversion.num_steps=3"]
    inverted = invad_jax.load(workdir_of(converted, system), options).score_latents(x0)
    assert np.isfinite(inverted.x_T).all()
    assert not np.allclose(inverted.x_T[0], inverted.x_T[1])


def test_what_says_no_noise_is_not_inverted(converted):
    with pytest.raises(UserError, match=r"asks for eps, and denoiser.name=unet_transfusion says"):
        invad_jax.load(workdir_of(converted, "transfusion"), ["inversion.paradigm=inversion"])
