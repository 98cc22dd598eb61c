"""What other detectors minimise, against numbers of their own code: corruption, losses, gradients.

All in float32; a loss and the norm of its gradient sum up thousands of numbers: 1e-4.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.converters.rivals import read_file
from invad_jax.inference.assembly import outputs
from invad_jax.paradigms import deco_diff, diad, mad_ad, transfusion
from invad_jax.paradigms.corruption import shuffled_patches
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.paradigms.walk import euler
from tests.golden import HINTS, nhwc, unpacked
from tests.parameters import norm

RELATIVE = 1e-4


@pytest.fixture(scope="module")
def read(golden_dir, tmp_path_factory):
    """system -> (config, parameters, numbers of its objective)."""
    root, known = tmp_path_factory.mktemp("objectives"), {}

    def get(system):
        if system not in known:
            file, folder = unpacked(golden_dir, system, root)
            text = folder / "network.npz" if system == "diad" else None
            converted = read_file(system, file, HINTS.get(system, {}), None, text)
            known[system] = converted.config, converted.params, np.load(folder / "objective.npz")
        return known[system]

    return get


def gradient(loss, params):
    """Of a loss that gives its mean and more: that more, the mean, and the gradient."""
    (value, more), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return more, float(value), grads


@pytest.fixture(scope="module")
def gradient_of_deco_diff(read):
    """(parameters, x0, label, what is drawn) -> loss and gradient, compiled once."""
    config, _, _ = read("deco-diff")
    objective = deco_diff.objective(config, classes=False)  # `ask` knows the label

    def loss(params, x0, label, drawn):
        def ask(x, t):
            return outputs(config, params, x, t, label=label)

        return jnp.mean(objective.loss(ask, x0, drawn))

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("side", [1, 2, 4])
def test_deco_diff(read, gradient_of_deco_diff, side):
    config, params, golden = read("deco-diff")
    golden = {k.removeprefix(f"patch{side}__"): v for k, v in golden.items()}
    x0, t, label = nhwc(golden["x0"]), golden["t"], golden["label"]
    shuffled = jax.jit(shuffled_patches, static_argnums=2)(x0, golden["permutation"], side)
    np.testing.assert_array_equal(shuffled, nhwc(golden["shuffled"]))
    drawn = {
        "t": t, "keep": nhwc(golden["mask"]), "gaussian": nhwc(golden["noise_mask"]),
        "noise": nhwc(golden["gaussian"]), "latent_shuffled": shuffled,
    }  # fmt: skip
    level = alpha_bar_of(config)[t].astype(np.float32)
    x_t, target = jax.jit(deco_diff.spoilt)(x0, drawn["keep"], nhwc(golden["noise"]), level)
    np.testing.assert_allclose(x_t, nhwc(golden["x_t"]), atol=1e-5)
    np.testing.assert_allclose(target, nhwc(golden["target"]), atol=1e-5)
    value, grads = gradient_of_deco_diff(params, x0, label, drawn)
    assert value == pytest.approx(golden["loss"].mean(), rel=RELATIVE)
    assert norm(grads) == pytest.approx(golden["gradient_norm"], rel=RELATIVE)
    first = grads["conv_in"]["kernel"].transpose(3, 2, 0, 1)
    scale = np.abs(golden["gradient_of_first_convolution"]).max()
    np.testing.assert_allclose(
        first, golden["gradient_of_first_convolution"], atol=RELATIVE * scale
    )
    of_labels = golden["gradient_of_label_embedding"]
    np.testing.assert_allclose(grads["classes"], of_labels, atol=RELATIVE * np.abs(of_labels).max())
    # One vector is attended to: nothing of x matters there.
    unused = grads["input_1_attention"]["attention"]["q"]["kernel"]
    np.testing.assert_array_equal(unused, np.zeros_like(unused))


def test_mad_ad(read):
    config, params, golden = read("mad-ad")
    drawn = {"t": golden["t"], "keep": nhwc(golden["mask"]), "noise": nhwc(golden["noise"])}
    objective = mad_ad.objective(config)

    def loss(params):
        seen = []

        def ask(x, t):
            np.testing.assert_array_equal(t, golden["t"])
            seen.append((x, outputs(config, params, x, t)))
            return seen[-1][1]

        losses = objective.loss(ask, nhwc(golden["x0"]), drawn)
        return jnp.mean(losses), (losses, *seen)

    (losses, (x_t, found)), value, grads = gradient(loss, params)
    np.testing.assert_allclose(x_t, nhwc(golden["x_t"]), atol=1e-5)
    np.testing.assert_allclose(losses, golden["loss"], rtol=RELATIVE)
    for name, right, key in (("x0", "x0", "mse"), ("mask", "mask", "mask_prediction")):
        error = np.mean((np.asarray(found[name]) - nhwc(golden[right])) ** 2, axis=(1, 2, 3))
        np.testing.assert_allclose(error, golden[key], rtol=RELATIVE)
    assert value == pytest.approx(golden["loss"].mean(), rel=RELATIVE)
    assert norm(grads) == pytest.approx(golden["gradient_norm"], rel=RELATIVE)


def test_transfusion(read):
    config, params, golden = read("transfusion")
    x0, mask, t = nhwc(golden["x"]), nhwc(golden["mask"]), golden["t"]
    anomaly = mask * nhwc(golden["anomaly"])
    beta = transfusion.beta_of(20)
    x_t = jax.jit(transfusion.faded)(x0, mask, anomaly, beta[t])
    np.testing.assert_allclose(x_t, nhwc(golden["x_t"]), atol=1e-6)
    unlike = 1 - jax.jit(transfusion.similarity)(x0, x_t).mean()
    assert unlike == pytest.approx(golden["ssim_of_x_and_x_t"], rel=RELATIVE)

    def loss(params):
        said = outputs(config, params, x_t, t, mask=nhwc(golden["previous_mask"]))
        terms = transfusion.losses(said, x0, x_t, mask, anomaly, beta[t], beta[t - 1])
        terms = {name: jnp.mean(each) for name, each in terms.items()}
        return sum(terms.values()), (said, terms)

    (said, terms), value, grads = gradient(loss, params)
    for name in ("noise", "mask", "mean", "step"):
        assert terms[name] == pytest.approx(golden[f"{name}_loss"], rel=RELATIVE), name
    focal = np.mean(jax.jit(transfusion.focal)(said["mask_logits"], mask))
    assert focal == pytest.approx(golden["focal"], rel=RELATIVE)

    @jax.jit
    def stepped(found, mask):
        now, then = (beta[t - back][:, None, None, None] for back in (0, 1))
        return euler(x_t, transfusion.velocity(found, mask, now), now, then)

    truth = {"noise": beta[t][:, None, None, None] * anomaly, "mean": x0}
    last = (said["mask_logits"] > 0).astype(np.float32)
    for found, its_mask, key in ((said, last, "next_predicted"), (truth, mask, "next_actual")):
        after = stepped(found, its_mask)
        np.testing.assert_allclose(after, nhwc(golden[key]), atol=1e-5)
    assert value == pytest.approx(golden["loss"], rel=RELATIVE)
    fixed = grads.pop("norm_mask")  # running statistics are no parameters there
    assert not np.any(fixed.pop("mean"))
    assert not np.any(fixed.pop("var"))
    found = norm({**grads, "norm_mask": fixed})
    assert found == pytest.approx(golden["gradient_norm"], rel=RELATIVE)


def test_diad(read, golden_dir):
    """Of the guide and of the way up, which are all that its code trains."""
    config, params, golden = read("diad")
    given = np.load(golden_dir / "rivals" / "diad" / "network.npz")
    x0, x_t, t = nhwc(given["z"]), nhwc(golden["x_t"]), golden["t"]
    level = alpha_bar_of(config)[t][:, None, None, None].astype(np.float32)
    noise = (x_t - np.sqrt(level) * x0) / np.sqrt(1 - level)
    objective, hint = diad.objective(config), nhwc(given["hint"])
    trained = {k: v for k, v in params.items() if k == "guide" or k.startswith("output_")}

    def loss(trained):
        def ask(x, t, image):
            np.testing.assert_array_equal(image, x0)  # trained here: the latent itself
            return outputs(config, params | trained, x, t, image=hint)

        each = objective.loss(ask, x0, {"t": t, "noise": noise})
        return jnp.mean(each), each

    each, _, grads = gradient(loss, trained)
    np.testing.assert_allclose(each, golden["loss"], rtol=RELATIVE)
    guide = norm(grads.pop("guide"))
    assert guide == pytest.approx(golden["gradient_norm_guide"], rel=RELATIVE)
    assert norm(grads) == pytest.approx(golden["gradient_norm_decoder"], rel=RELATIVE)
