"""Learns the components of an encoder's features from normal images, before any latent is kept.

The images pass twice: once for the moments, once to be encoded in the components that follow from
them. Memory: 4 C^2 bytes on each device and 32 C^2 on the host, 75 MB for 1,536 channels, whatever
the number of images. Read next: `encoders/components.py`, the mathematics.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from invad_jax.config import Config
from invad_jax.data.dataset import Sample, fingerprint
from invad_jax.data.pipeline import image_batches
from invad_jax.encoders import Encoder, with_components
from invad_jax.encoders import components as components_lib
from invad_jax.encoders.components import Moments
from invad_jax.inference.in_parts import in_parts
from invad_jax.runtime import processes
from invad_jax.runtime.log import log
from invad_jax.runtime.sharding import batch_sharding, global_batch, put, replicated, rounded_up
from invad_jax.runtime.workdir import Workdir, learnt_as


def learn(
    config: Config, workdir: Workdir, encoder: Encoder, samples: Sequence[Sample], mesh: Mesh
) -> Encoder:
    """The encoder with `encoder.channels` components, learnt or as the workdir has them.

    Args:
      config: the experiment.
      workdir: claimed by it; keeps the components.
      encoder: with all its channels.
      samples: normal images.
      mesh: devices of all processes, which share the images.

    Raises:
      UserError: too few images, or a checkpoint that belongs to other components.
    """
    if not config.encoder.channels:
        return encoder
    key = _key(config, encoder, samples)
    kept = workdir.learnt_before(workdir.components, components_lib.read, key)
    processes.barrier("components read")  # before any process writes
    if kept is None:
        found = moments([sample.path for sample in samples], encoder, config, mesh)
        if processes.is_primary():
            _write(workdir, found, key)
        processes.barrier("components")
        read = partial(components_lib.read, workdir.components)
        kept = processes.as_written(partial(learnt_as, read, key))
    return with_components(encoder, kept)


def check_unchanged(
    config: Config, workdir: Workdir, encoder: Encoder, samples: Sequence[Sample]
) -> None:
    """Asked before a start writes anything; arguments as of `learn`.

    Raises:
      UserError: a checkpoint is there, and it belongs to other components.
    """
    if config.encoder.channels and workdir.components.is_file():  # else no image is hashed
        key = _key(config, encoder, samples)
        workdir.learnt_before(workdir.components, components_lib.read, key)


def _key(config: Config, encoder: Encoder, samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "dataset": fingerprint(samples),
        "encoder": encoder.fingerprint,
        "channels": config.encoder.channels,
        "value_range": list(config.data.value_range),
    }


def load(config: Config, workdir: Workdir, encoder: Encoder) -> Encoder:
    """The encoder with the components that a training has learnt, if it has any.

    Raises:
      UserError: they are not there, or damaged.
    """
    if not config.encoder.channels:
        return encoder
    return with_components(encoder, components_lib.read(workdir.components)[0])


def moments(paths: Sequence[str], encoder: Encoder, config: Config, mesh: Mesh) -> Moments:
    """Of all vectors of the images, the same on every process.

    Sums of a batch are float32 about the batch's own mean; those of all batches are float64.
    """
    encode = in_parts(encoder.apply, mesh)

    def of_batch(variables: Any, image: jax.Array, sample_id: jax.Array) -> Moments:
        return components_lib.moments(encode(variables, image), sample_id >= 0)

    rows = batch_sharding(mesh)
    compiled = jax.jit(
        of_batch, in_shardings=(replicated(mesh), rows, rows), out_shardings=replicated(mesh)
    )
    variables = put(encoder.variables, replicated(mesh))
    batch_size = rounded_up(config.eval.batch_size, mesh)
    this, count = jax.process_index(), jax.process_count()
    total: Moments | None = None
    for batch in image_batches(paths, config.data, batch_size, this, count):
        arrays = global_batch(batch, mesh)
        found = compiled(variables, arrays["image"], arrays["sample_id"])
        total = components_lib.merged(total, jax.device_get(found))
    assert total is not None, "there are images"
    return total


def _write(workdir: Workdir, found: Moments, key: dict[str, Any]) -> None:
    components, share = components_lib.principal(found, key["channels"])
    components_lib.write(workdir.components, components, key)
    said = "%d of %d channels hold %.1f %% of the variance"
    log.info(said, key["channels"], len(found.mean), 100 * share)
