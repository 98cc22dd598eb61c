"""What other detectors' networks learn: what is drawn, and that the truth costs nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.detector import LatentStats
from invad_jax.errors import UserError
from invad_jax.paradigms import OBJECTIVES, objective_of
from invad_jax.paradigms.corruption import highest, kept_cells, possible_sides, shuffled_patches
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.paradigms.masked import MOST_MASKED
from invad_jax.paradigms.transfusion import beta_of
from invad_jax.training.step import make_loss

SHAPE = (6, 8, 8, 3)
LATENT = jnp.asarray(np.random.default_rng(0).standard_normal(SHAPE), jnp.float32)
NEEDED = {
    "deco_diff": ("diffusion.prediction=deviation", "diffusion.num_timesteps=10"),
    "mad_ad": ("diffusion.prediction=sample", "diffusion.num_timesteps=10"),
    "masked": ("diffusion.prediction=sample",),
    "masked_adaptive": ("diffusion.prediction=sample",),
    "transfusion": ("diffusion.num_timesteps=20",),
    "diad": (),
    "diffusion": (),
}
ALONE = [name for name in OBJECTIVES if name in NEEDED]
"""Those whose network learns from images alone."""


def of(name):
    config = override(Config(), [f"train.objective={name}", *NEEDED[name]])
    return config, objective_of(config)


def truth(config, drawn, x0):
    """A network that knows all that was drawn."""

    def ask(x_t, t, mask=None, image=None):
        if config.train.objective == "transfusion":
            beta = jnp.asarray(beta_of(20))[t][:, None, None, None]
            its_mask = drawn["mask"]
            return {
                "noise": beta * its_mask * drawn["latent_anomaly"], "mean": x0,
                "mask_logits": 40 * its_mask - 20,
            }  # fmt: skip
        spread = jnp.asarray(np.sqrt(1 - alpha_bar_of(config)), jnp.float32)[t]
        spread = spread[:, None, None, None]
        return {
            "deviation": (x_t - x0) / spread, "x0": x0, "mask": drawn.get("keep"),
            "eps": drawn.get("noise"),
        }  # fmt: skip

    return ask


@pytest.mark.parametrize("name", ALONE)
def test_the_truth_costs_nothing_and_silence_does(name):
    config, objective = of(name)
    drawn = jax.jit(objective.draw)(LATENT, jax.random.key(3))
    assert {len(rows) for rows in drawn.values()} == {len(LATENT)}

    @jax.jit
    def of_the_truth(x0, drawn):
        return objective.loss(truth(config, drawn, x0), x0, drawn)

    losses = of_the_truth(LATENT, drawn)
    # Float32, divided by a smallest spread of 0.01; the similarity of an image with itself is 1.
    np.testing.assert_allclose(losses, np.zeros(len(LATENT)), atol=1e-5)

    def silent(x_t, t, mask=None, image=None):
        said = dict(objective.says)
        return {k: jnp.zeros((*x_t.shape[:3], n or x_t.shape[3])) for k, n in said.items()}

    assert np.mean(jax.jit(partial(objective.loss, silent))(LATENT, drawn)) > 0.01


@pytest.mark.parametrize("name", ALONE)
def test_a_batch_in_pieces_means_the_same(name):
    """What is drawn belongs to its row, and is standardised with it."""
    _, objective = of(name)

    def ask(seen, x_t, t, mask=None, image=None):
        seen.append(x_t)
        said = dict(objective.says)
        wave = jnp.sin(0.7 * x_t) + 0.01 * t[:, None, None, None]
        return {k: wave if not n else wave[..., :n] for k, n in said.items()}

    stats = LatentStats(jnp.array([0.5, 0.0, -0.5]), jnp.array([2.0, 1.0, 0.5]))
    loss_fn = make_loss(ask, objective)
    batch = jax.jit(loss_fn.draw)({"latent": LATENT}, jax.random.key(1))

    @jax.jit
    def given(batch):
        """The loss, and what the network is asked."""
        seen = []
        loss, _ = loss_fn.given(seen, stats, batch)
        return loss, *seen

    whole, all_seen = given(batch)
    halves = [jax.tree.map(lambda rows, i=i: rows[i::2], batch) for i in (0, 1)]
    parts, seen = zip(*map(given, halves), strict=True)
    # The range of the similarity is that of the images at hand, and here the same.
    assert np.mean(parts) == pytest.approx(float(whole), rel=1e-5)
    np.testing.assert_array_equal(seen[0], all_seen[0::2])


@pytest.mark.parametrize("name", ALONE)
def test_draws_differ_by_key_alone(name):
    _, objective = of(name)
    draw = jax.jit(objective.draw)
    first, again, other = (draw(LATENT, jax.random.key(k)) for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert any(not np.array_equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize(("name", "prediction"), [("deco_diff", "eps"), ("masked", "eps")])
def test_what_the_network_says_has_to_fit(name, prediction):
    config = override(Config(), [f"train.objective={name}", f"diffusion.prediction={prediction}"])
    with pytest.raises(UserError, match=rf"diffusion.prediction=eps: train.objective={name} takes"):
        objective_of(config)


@pytest.mark.parametrize("sides", [(1, 1), (2, 2), (4, 2)])
def test_as_many_cells_are_kept_as_the_ratio_leaves(sides):
    ratio = jnp.array([0.0, 0.3, 0.7, 0.99])
    keep = np.asarray(kept_cells(jax.random.key(0), ratio, (8, 8), sides))
    cells = keep.reshape(4, 8 // sides[0], sides[0], 8 // sides[1], sides[1])
    assert np.array_equal(cells.max((2, 4)), cells.min((2, 4)))  # a cell as a whole
    n = 64 // (sides[0] * sides[1])
    expected = [int(np.float32(n) * (1 - np.float32(r))) for r in np.asarray(ratio)]
    assert cells.max((2, 4)).sum((1, 2)).tolist() == expected


def test_patches_move_as_a_whole():
    order = np.random.default_rng(1).permutation(6 * 4 * 4)
    moved = np.asarray(shuffled_patches(LATENT, jnp.asarray(order), 2))
    for k in (0, 17, 95):
        image, row, column = k // 16, k % 16 // 4, k % 4
        source = order[k]
        i, r, c = source // 16, source % 16 // 4, source % 4
        np.testing.assert_array_equal(
            moved[image, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2],
            LATENT[i, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2],
        )


def test_a_grid_too_small_to_spoil_is_refused():
    assert possible_sides({1: 0.2, 2: 0.3, 4: 0.5}, (4, 6)) == {1: 0.4, 2: 0.6}
    with pytest.raises(UserError, match="latents of 1 x 1"):
        possible_sides({1: 1.0}, (1, 1))


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_share_of_masks(adaptive):
    config, objective = of("masked_adaptive" if adaptive else "masked")
    drawn = jax.jit(objective.draw)(jnp.zeros((2000, 4, 4, 1)), jax.random.key(5))
    spread = np.sqrt(1 - alpha_bar_of(config))[drawn["t"]]
    expected = MOST_MASKED * (spread if adaptive else np.ones(2000))
    blank = 1 - np.asarray(drawn["keep"]).mean((1, 2, 3))
    low = spread < 0.5
    # 16 cells an image, some 200 images and 1800: a standard error of 0.008 and 0.003.
    for rows in (low, ~low):
        assert blank[rows].mean() == pytest.approx(expected[rows].mean(), abs=0.03)


def test_anomalies_take_their_share_and_half_of_the_images():
    x = jnp.asarray(np.random.default_rng(2).standard_normal((3, 8, 8, 1)), jnp.float32)
    mask = np.asarray(highest(x, jnp.array([0.0, 0.25, 1.0])))
    assert mask.sum((1, 2, 3)).tolist() == [0, 16, 64]
    assert x[1][mask[1] == 1].min() > x[1][mask[1] == 0].max()
    _, objective = of("transfusion")
    drawn = jax.jit(objective.draw)(LATENT, jax.random.key(0))
    assert np.asarray(drawn["mask"]).any((1, 2, 3)).tolist() == [True, False] * 3
    latest = np.asarray(drawn["t"]) == 19
    assert not np.asarray(drawn["last_mask"])[latest].any()
