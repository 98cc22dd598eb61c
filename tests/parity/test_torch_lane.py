"""The lane of PyTorch in the benchmark is the same detector."""

import jax
import numpy as np
import pytest

from invad_jax.benchmarks.subject import of_config
from invad_jax.config import Config, DataConfig, DenoiserConfig, EncoderConfig
from invad_jax.config.io import override
from invad_jax.errors import UserError


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "efficientnet_b0"])
def test_its_scores_are_those_of_jax(encoder):
    pytest.importorskip("torch")
    from invad_jax.benchmarks import torch_lane

    subject = of_config(
        Config(
            data=DataConfig(image_size=64),
            encoder=EncoderConfig(name=encoder, stages=(1, 3, 5)),
            denoiser=DenoiserConfig(width=32, depth=2, num_heads=2),
        )
    )
    runs, said = torch_lane.runs(subject, batch=3)
    assert set(runs) == {"encoder", "denoiser", "detector"}
    for run in runs.values():
        run()
    image = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    scores = jax.jit(subject.detector.predict)(subject.variables, image)
    ours = {name: np.asarray(getattr(scores, name)) for name in ("latent_norm", "nll")}
    # float32 sums in another order, through a network and three steps.
    assert torch_lane.difference(ours, said()) < 1e-4
    wrong = {name: values * 1.01 for name, values in ours.items()}
    assert torch_lane.difference(wrong, said()) > 5e-3


@pytest.mark.parametrize(
    "options",
    [
        ["encoder.name=wide_resnet50_2", "denoiser.num_heads=2"],
        ["denoiser.name=mlp"],
        ["diffusion.prediction=v", "denoiser.num_heads=2"],
    ],
)
def test_what_it_has_not_is_refused(options):
    from invad_jax.benchmarks import torch_lane

    small = ["data.image_size=64", "denoiser.width=32", "denoiser.depth=1", "encoder.stages=0,1"]
    config = override(Config(), [*small, *options])
    with pytest.raises(UserError, match="EfficientNets"):
        torch_lane.runs(of_config(config), batch=1)
