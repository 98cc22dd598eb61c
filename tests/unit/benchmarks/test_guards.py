"""What the compiled detector computes and holds, counted: none of it may grow unnoticed."""

import dataclasses
import gc

import jax
import numpy as np
import pytest
from PIL import Image

from invad_jax.benchmarks import parts, training
from invad_jax.benchmarks.subject import of_config
from invad_jax.config import (
    Config,
    DataConfig,
    DenoiserConfig,
    EncoderConfig,
    MeshConfig,
    TrainConfig,
)
from invad_jax.encoders import describe_encoder
from invad_jax.inference import images
from invad_jax.inference.assembly import abstract_params
from invad_jax.planning.programs import trace_train_step
from invad_jax.runtime.sharding import batch_sharding, make_mesh, replicated
from invad_jax.training import denoiser, loop

WIDTH, DEPTH, STEPS, BATCH = 32, 2, 3, 8
CONFIG = Config(
    data=DataConfig(image_size=64),
    encoder=EncoderConfig(name="efficientnet_lite0", stages=(0, 2)),
    denoiser=DenoiserConfig(width=WIDTH, depth=DEPTH, num_heads=2),
    train=TrainConfig(batch_size=BATCH),
)


@pytest.fixture(scope="module")
def subject():
    found = of_config(CONFIG, make_mesh(MeshConfig(), jax.devices()[:1]))
    assert found.timesteps == (0, 500, 999)
    return found


@pytest.fixture(scope="module")
def compiled(subject):
    """(part, batch) -> the compiled program and its operations."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield {(part.name, part.batch): part for part in parts.detector_parts(subject, [1, BATCH])}
    jax.config.update("jax_disable_most_optimizations", True)


def test_components_take_the_place_of_channels():
    encoder = dataclasses.replace(CONFIG.encoder, channels=5)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    subject = of_config(dataclasses.replace(CONFIG, encoder=encoder), mesh)
    basis = subject.variables.encoder.components.basis
    assert subject.latent_shape[-1] == basis.shape[1] == 5
    np.testing.assert_allclose(basis.T @ basis, np.eye(5), atol=1e-6)  # float32
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.uint8)
    latent = jax.eval_shape(subject.detector.encode, subject.variables.encoder, image)
    assert latent.shape[1:] == subject.latent_shape


def test_letterboxed_images_are_measured_as_they_are_read():
    data = dataclasses.replace(CONFIG.data, aspect="letterbox")
    subject = of_config(dataclasses.replace(CONFIG, data=data), make_mesh(MeshConfig()))
    (part,) = parts.detector_parts(subject, [1], only="encoder")
    assert part.name == "encoder"
    part.run()
    assert (parts.images_of_noise(2, data)[..., 3] == 255).all()


def test_the_denoiser_computes_its_products_and_no_more(compiled, subject):
    h, w, C = subject.latent_shape
    N, D = h * w, WIDTH
    block = 2 * N * (3 * D * D + D * D + 2 * 4 * D * D) + 4 * N * N * D  # layers, attention
    network = DEPTH * block + 2 * 2 * N * C * D  # and the first and last layer
    for batch in (1, BATCH):
        # Nothing of the timestep: its layers were 2 (2 D^2 + 6 D^2 L) more.
        assert compiled["denoiser", batch].flops == STEPS * batch * network


def test_the_detector_computes_its_parts(compiled):
    for batch in (1, BATCH):
        whole = compiled["detector", batch].flops
        named = [compiled[name, batch].flops for name in ("encoder", "denoiser", "comparison")]
        assert whole == sum(named)  # and so no map, which is two products with every row
        assert whole == batch * compiled["detector", 1].flops


def test_images_one_by_one_take_the_memory_of_one(compiled, subject):
    """On a CPU. Beside it only what comes in and goes out grows."""
    latent = 4 * int(np.prod(subject.latent_shape))
    image = 3 * subject.config.data.image_size**2
    one, many = (compiled["encoder", batch].peak_bytes for batch in (1, BATCH))
    # Rows on their way in and out are copied once, as they are brought into rounds.
    assert many <= one + 2 * BATCH * (latent + image)


def test_a_denoiser_holds_its_table_and_no_layers_of_the_timestep(subject):
    h, w, C = subject.latent_shape
    D, L = WIDTH, DEPTH
    layers = L * (12 * D * D + 3 * D + D + 4 * D + D) + (C * D + D) + (D * C + C) + h * w * D
    table = STEPS * (6 * D * L + 2 * D) + STEPS
    sizes = [leaf.size for leaf in jax.tree.leaves(subject.variables.denoiser)]
    assert sum(sizes) == layers + table


def test_a_training_step_is_one_program_and_moves_one_batch(subject, monkeypatch):
    made, moved = [], []
    compile_step, to_device = loop.compile_step, loop.global_batch

    def kept(*arguments):
        made.append(compile_step(*arguments))
        return made[-1]

    def counted(batch, *rest):
        moved.append(sorted(batch))
        return to_device(batch, *rest)

    monkeypatch.setattr(loop, "compile_step", kept)
    monkeypatch.setattr(loop, "global_batch", counted)
    seconds = training.loop_seconds(CONFIG, subject.latent_shape, 10)
    assert min(seconds) > 0
    assert moved == [["latent"]] * (training.FIRST + 10)
    (step,) = made
    assert step._cache_size() == 1


def test_the_loop_finds_the_devices_without_another_state(subject, monkeypatch):
    shape = subject.latent_shape
    step = parts.train_part(CONFIG, shape)

    def states():
        gc.collect()  # what an earlier test left in a circle
        return sum(array.nbytes for array in jax.live_arrays())

    before, during = states(), []

    def looked(config, shape, steps):
        during.append(states())
        return 1.0, 1.0

    monkeypatch.setattr(training, "loop_seconds", looked)
    step.run()
    parameters = sum(4 * leaf.size for leaf in jax.tree.leaves(abstract_params(CONFIG, shape)))
    assert states() - before >= 4 * parameters  # average, two moments
    found = training.measure(CONFIG, shape, step, 0.01)
    assert during[0] - before < parameters
    assert found["steps"] >= 10


def test_training_is_measured_in_its_own_precision(subject, monkeypatch):
    seen = []
    monkeypatch.setattr(denoiser, "denoiser_loss", lambda config: seen.append(config))
    assert CONFIG.denoiser.dtype == "auto" != subject.config.denoiser.dtype
    parts.training_of(CONFIG, subject.latent_shape)
    assert seen == [CONFIG]


def test_a_training_step_writes_its_state_where_it_was():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    _, encoder = describe_encoder(CONFIG.encoder, CONFIG.data.image_size, CONFIG.tiling)
    traced = trace_train_step(CONFIG, encoder, mesh)
    memory = traced.lower().compile().memory_analysis()
    params = abstract_params(CONFIG, encoder.latent_shape)
    held = 4 * sum(4 * leaf.size for leaf in jax.tree.leaves(params))  # average, two moments
    batch = 4 * CONFIG.train.batch_size * int(np.prod(encoder.latent_shape))
    assert memory.alias_size_in_bytes >= held
    assert memory.argument_size_in_bytes <= memory.alias_size_in_bytes + batch + 10_000  # scalars


def test_a_batch_goes_to_the_device_once_and_comes_back_once(tmp_path, monkeypatch):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    paths = []
    for i in range(7):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", (8, 8), (i, 0, 0)).save(paths[-1])
    moved = {"in": 0, "out": 0}
    to_device, fetch = images.global_batch, jax.device_get

    def counted_in(batch, *rest):
        assert list(batch) == ["image"]
        moved["in"] += 1
        return to_device(batch, *rest)

    def counted_out(tree):
        moved["out"] += 1
        return fetch(tree)

    monkeypatch.setattr(images, "global_batch", counted_in)
    monkeypatch.setattr(images.jax, "device_get", counted_out)
    compiled = jax.jit(
        lambda scale, image: {"red": scale * image[:, 0, 0, 0]},
        in_shardings=(replicated(mesh), batch_sharding(mesh)), out_shardings=replicated(mesh),
    )  # fmt: skip
    scale = jax.device_put(np.float32(2), replicated(mesh))
    seen = {}
    with jax.transfer_guard("disallow"):  # what is moved is moved on purpose
        for ids, rows in images.run_on_images(
            compiled, scale, paths, DataConfig(image_size=8), 3, mesh
        ):
            seen |= dict(zip(ids.tolist(), rows["red"].tolist(), strict=True))
    assert seen == {i: 2.0 * i for i in range(7)}
    assert moved == {"in": 3, "out": 3}
