"""What other detectors minimise, against numbers of their own code: corruption, losses, gradients.

All in float32; a loss and the norm of its gradient sum up thousands of numbers: 1e-4.
"""

import lzma

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invad_jax.converters.rivals import read_file
from invad_jax.inference.assembly import outputs
from invad_jax.paradigms import deco_diff, diad, mad_ad, transfusion
from invad_jax.paradigms.corruption import shuffled_patches
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.paradigms.walk import euler

RELATIVE = 1e-4
FILES = {
    "deco-diff": ("deco_diff/last.pt.xz", {"num_heads": 2}),
    "mad-ad": ("mad_ad/last.pt.xz", {"num_heads": 2}),
    "transfusion": ("transfusion/bottle_model.pkl.xz", {}),
    "diad": ("diad/epoch=0-step=0.ckpt.xz", {"num_heads": 2}),
}


def nhwc(array):
    return np.moveaxis(np.asarray(array, np.float32), -3, -1)


@pytest.fixture(scope="module")
def read(golden_dir, tmp_path_factory):
    """system -> (config, parameters, numbers of its objective)."""
    root, known = tmp_path_factory.mktemp("objectives"), {}

    def get(system):
        if system not in known:
            packed, hints = FILES[system]
            packed = golden_dir / "rivals" / packed
            file = root / f"{system}_{packed.stem}"
            file.write_bytes(lzma.decompress(packed.read_bytes()))
            text = packed.parent / "network.npz" if system == "diad" else None
            converted = read_file(system, file, hints, None, text)
            numbers = np.load(packed.parent / "objective.npz")
            known[system] = converted.config, converted.params, numbers
        return known[system]

    return get


compiled = jax.jit(outputs, static_argnums=0)


def gradient(loss, params):
    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    return float(value), grads


@pytest.mark.parametrize("side", [1, 2, 4])
def test_deco_diff(read, side):
    config, params, golden = read("deco-diff")
    golden = {k.removeprefix(f"patch{side}__"): v for k, v in golden.items()}
    x0, t, label = nhwc(golden["x0"]), golden["t"], golden["label"]
    shuffled = shuffled_patches(jnp.asarray(x0), golden["permutation"], side)
    np.testing.assert_array_equal(shuffled, nhwc(golden["shuffled"]))
    drawn = {
        "t": t, "keep": nhwc(golden["mask"]), "gaussian": nhwc(golden["noise_mask"]),
        "noise": nhwc(golden["gaussian"]), "latent_shuffled": shuffled,
    }  # fmt: skip
    level = jnp.asarray(alpha_bar_of(config), jnp.float32)[t]
    x_t, target = deco_diff.spoilt(x0, drawn["keep"], nhwc(golden["noise"]), level)
    np.testing.assert_allclose(x_t, nhwc(golden["x_t"]), atol=1e-5)
    np.testing.assert_allclose(target, nhwc(golden["target"]), atol=1e-5)
    objective = deco_diff.objective(config, classes=False)  # `ask` knows the label

    def loss(params):
        def ask(x, t):
            return outputs(config, params, x, t, label=label)

        return jnp.mean(objective.loss(ask, x0, drawn))

    value, grads = gradient(loss, params)
    assert value == pytest.approx(golden["loss"].mean(), rel=RELATIVE)
    assert optax.tree.norm(grads) == pytest.approx(golden["gradient_norm"], rel=RELATIVE)
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
    objective, x_t = mad_ad.objective(config), nhwc(golden["x_t"])

    def ask_golden(x, t):
        np.testing.assert_allclose(x, x_t, atol=1e-5)
        return compiled(config, params, x, t)

    losses = objective.loss(ask_golden, nhwc(golden["x0"]), drawn)
    np.testing.assert_allclose(losses, golden["loss"], rtol=RELATIVE)
    found = compiled(config, params, x_t, golden["t"])
    for name, right, key in (("x0", "x0", "mse"), ("mask", "mask", "mask_prediction")):
        error = np.mean((np.asarray(found[name]) - nhwc(golden[right])) ** 2, axis=(1, 2, 3))
        np.testing.assert_allclose(error, golden[key], rtol=RELATIVE)

    def loss(params):
        def ask(x, t):
            np.testing.assert_array_equal(t, golden["t"])
            return outputs(config, params, x, t)

        losses = objective.loss(ask, nhwc(golden["x0"]), drawn)
        return jnp.mean(losses)

    value, grads = gradient(loss, params)
    assert value == pytest.approx(golden["loss"].mean(), rel=RELATIVE)
    assert optax.tree.norm(grads) == pytest.approx(golden["gradient_norm"], rel=RELATIVE)


def test_transfusion(read):
    config, params, golden = read("transfusion")
    x0, mask, t = nhwc(golden["x"]), nhwc(golden["mask"]), golden["t"]
    anomaly = mask * nhwc(golden["anomaly"])
    beta = transfusion.beta_of(20)
    x_t = transfusion.faded(x0, mask, anomaly, beta[t])
    np.testing.assert_allclose(x_t, nhwc(golden["x_t"]), atol=1e-6)
    unlike = 1 - transfusion.similarity(x0, x_t).mean()
    assert unlike == pytest.approx(golden["ssim_of_x_and_x_t"], rel=RELATIVE)

    def terms(params):
        found = outputs(config, params, x_t, t, mask=nhwc(golden["previous_mask"]))
        return transfusion.losses(found, x0, x_t, mask, anomaly, beta[t], beta[t - 1])

    said = compiled(config, params, x_t, t, mask=nhwc(golden["previous_mask"]))
    found = jax.tree.map(lambda each: float(each.mean()), jax.jit(terms)(params))
    for name in ("noise", "mask", "mean", "step"):
        assert found[name] == pytest.approx(golden[f"{name}_loss"], rel=RELATIVE), name
    assert jnp.mean(transfusion.focal(said["mask_logits"], mask)) == pytest.approx(
        golden["focal"], rel=RELATIVE
    )
    truth = {"noise": beta[t][:, None, None, None] * anomaly, "mean": x0}
    last = (said["mask_logits"] > 0).astype(np.float32)
    for found, its_mask, key in ((said, last, "next_predicted"), (truth, mask, "next_actual")):
        now, then = (beta[t - back][:, None, None, None] for back in (0, 1))
        after = euler(x_t, transfusion.velocity(found, its_mask, now), now, then)
        np.testing.assert_allclose(after, nhwc(golden[key]), atol=1e-5)
    value, grads = gradient(lambda p: sum(jnp.mean(each) for each in terms(p).values()), params)
    assert value == pytest.approx(golden["loss"], rel=RELATIVE)
    fixed = grads.pop("norm_mask")  # running statistics are no parameters there
    assert not np.any(fixed.pop("mean"))
    assert not np.any(fixed.pop("var"))
    norm = optax.tree.norm({**grads, "norm_mask": fixed})
    assert norm == pytest.approx(golden["gradient_norm"], rel=RELATIVE)


def test_diad(read, golden_dir):
    """Of the guide and of the way up, which are all that its code trains."""
    config, params, golden = read("diad")
    given = np.load(golden_dir / "rivals" / "diad" / "network.npz")
    x0, x_t, t = nhwc(given["z"]), nhwc(golden["x_t"]), golden["t"]
    level = alpha_bar_of(config)[t][:, None, None, None].astype(np.float32)
    noise = (x_t - np.sqrt(level) * x0) / np.sqrt(1 - level)
    objective, hint = diad.objective(config), nhwc(given["hint"])

    def losses(params):
        def ask(x, t, image):
            np.testing.assert_array_equal(image, x0)  # trained here: the latent itself
            return outputs(config, params, x, t, image=hint)

        return objective.loss(ask, x0, {"t": t, "noise": noise})

    def loss(params):
        each = losses(params)
        return jnp.mean(each), each

    (_, each), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(each, golden["loss"], rtol=RELATIVE)
    norm = optax.tree.norm(grads["guide"])
    assert norm == pytest.approx(golden["gradient_norm_guide"], rel=RELATIVE)
    up = [grads[name] for name in grads if name.startswith("output_")]
    assert optax.tree.norm(up) == pytest.approx(golden["gradient_norm_decoder"], rel=RELATIVE)
