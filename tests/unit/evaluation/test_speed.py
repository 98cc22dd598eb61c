"""The clock: what is called one image alone is one image, on one device."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from invad_jax.config import Config, DataConfig, MeshConfig
from invad_jax.evaluation.speed import measure_speed
from invad_jax.runtime.sharding import make_mesh, replicated


@pytest.mark.parametrize("devices", [1, 4])
def test_latency_is_of_one_image_on_one_device(tmp_path, devices):
    Image.new("RGB", (8, 8), (40, 0, 0)).save(tmp_path / "a.png")
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    seen = []

    def predict(variables, image):
        seen.append(image.shape)
        return jnp.sum(image * variables, axis=(1, 2, 3))

    batches = []
    model = SimpleNamespace(
        config=Config(data=DataConfig(image_size=8)), batch_size=8, mesh=mesh,
        variables=jax.device_put(np.ones((), np.float32), replicated(mesh)),
        detector=SimpleNamespace(predict_without_maps=predict),
        predict_batch=lambda image: batches.append((image.shape, len(image.devices()))),
    )  # fmt: skip
    speed = measure_speed(model, [str(tmp_path / "a.png")], seconds=0)
    whole, one = ((8, 8, 8, 3), devices), ((1, 8, 8, 3), 1)
    if devices == 1:  # the model's own program does
        assert set(batches) == {whole, one}
        assert seen == []
    else:
        assert set(batches) == {whole}
        assert seen == [one[0]]  # traced once
    assert speed["batch_size"] == 8
    assert 0 < speed["latency_ms_batch1"]["p50"] <= speed["latency_ms_batch1"]["p95"]
