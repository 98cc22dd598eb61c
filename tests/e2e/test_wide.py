"""Wide features: means of layers of a vision transformer, their components, whitened."""

import json

import numpy as np

from invad_jax.encoders import components
from invad_jax.inference.predictor import load
from tests.commands import WHITE, training

FEATURES = (
    "data.image_size=56", "encoder.name=dinov2_vits14_reg", "encoder.weights=random",
    "encoder.stages=0,1", "encoder.groups=1", "encoder.channels=24", "encoder.pool=1",
    "denoiser.patch_size=2",
)  # fmt: skip


def test_from_training_to_a_bundle(commands, tmp_path):
    run, part = tmp_path / "run", tmp_path / "part.invad"
    said = commands.here(*training(run, *WHITE, *FEATURES, "inversion.solver=angle")).stderr
    assert "24 of 384 channels hold" in said
    found, _ = components.read(run / "components.npz")
    assert found.basis.shape == (384, 24)
    commands.here("eval", "--workdir", str(run), "--no-speed")
    assert json.loads((run / "eval" / "metrics.json").read_text())["nfe"] == 3
    commands.here("export", "--workdir", str(run), "--out", str(part))
    image = np.random.default_rng(0).integers(0, 256, (2, 56, 56, 3), dtype=np.uint8)
    scores = [load(path).predict(image).image_score for path in (run, part)]
    # Sums in another order: eight devices and one.
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-3)
    (run / "components.npz").unlink()
    said = commands.refused("eval", "--workdir", str(run), "--no-speed")
    assert "components.npz: cannot be read; without it the model has no latents" in said
