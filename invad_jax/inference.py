"""A trained detector on this machine's devices: loaded, compiled, calibrated.

Used by `eval`, `predict` and from Python:

    model = invad_jax.load("runs/hazelnut")
    scores = model.predict(images)          # (B, H, W, 3) uint8 -> named arrays
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from invad_jax import calibration as calibration_lib
from invad_jax import files, runtime
from invad_jax.calibration import Calibration
from invad_jax.checkpoint import Checkpoints, abstract_like
from invad_jax.config import Config
from invad_jax.data.layouts import Sample
from invad_jax.data.pipeline import image_batches
from invad_jax.denoisers import build_denoiser
from invad_jax.detector import Detector, DetectorVariables, LatentStats
from invad_jax.diffusion.reconstruction import reconstruction_plan
from invad_jax.diffusion.schedule import linear_alpha_bar, make_plan, spaced_timesteps
from invad_jax.encoders import Encoder, build_encoder
from invad_jax.errors import UserError
from invad_jax.scoring import Scores
from invad_jax.sharding import batch_sharding, global_batch, make_mesh, replicated
from invad_jax.workdir import Workdir


def alpha_bar_of(config: Config) -> np.ndarray:
    """The noise schedule of a config, (T,) float64."""
    diffusion = config.diffusion
    return linear_alpha_bar(diffusion.num_timesteps, diffusion.beta_start, diffusion.beta_end)


def build_detector(config: Config, encoder: Encoder) -> Detector:
    """The pure functions of a config."""
    inversion = config.inversion
    timesteps = spaced_timesteps(
        inversion.spacing, inversion.num_steps, config.diffusion.num_timesteps
    )
    denoiser = build_denoiser(config.denoiser, encoder.latent_shape)
    detector = Detector(
        encode=encoder.apply,
        denoise=lambda params, x, t: denoiser.apply({"params": params}, x, t),
        plan=make_plan(alpha_bar_of(config), timesteps, inversion.final_alpha_bar),
        image_size=config.data.image_size,
    )
    if inversion.paradigm == "inversion":
        return detector
    return detector.replace(
        plan=reconstruction_plan(alpha_bar_of(config), timesteps, inversion.noise_ratio),
        noise=jax.random.normal(jax.random.key(0), (1, *encoder.latent_shape)),
    )


def init_params(config: Config, latent_shape: tuple[int, int, int], rng: jax.Array) -> Any:
    """Fresh parameters of the config's denoiser."""
    denoiser = build_denoiser(config.denoiser, latent_shape)
    x_t, t = np.zeros((1, *latent_shape), np.float32), np.zeros((1,), np.int32)
    return denoiser.init(rng, x_t, t)["params"]


class Model:
    """A detector with its arrays on a mesh, and its compiled functions."""

    def __init__(
        self,
        config: Config,
        detector: Detector,
        variables: DetectorVariables,
        mesh: Mesh,
        step: int,
    ):
        self.config = config
        self.step = step
        self.mesh = mesh
        self.detector = detector
        self.variables = jax.device_put(variables, replicated(mesh))
        compile_on_mesh = partial(
            jax.jit,
            in_shardings=(replicated(mesh), batch_sharding(mesh)),
            out_shardings=replicated(mesh),
        )
        self._predict = compile_on_mesh(detector.predict)
        self._score_latents = compile_on_mesh(detector.score_latents)

    @property
    def batch_size(self) -> int:
        """`eval.batch_size`, rounded up to a multiple of the devices."""
        return -(-self.config.eval.batch_size // self.mesh.size) * self.mesh.size

    def predict(self, image: np.ndarray) -> Scores:
        """Scores images, (B, H, W, 3) uint8 of the model's size, any B; NumPy arrays come back."""
        return self._in_batches(self._predict, image)

    def score_latents(self, latent: np.ndarray) -> Scores:
        """Scores latents as they come from the encoder, (B, h, w, C) float32, any B."""
        return self._in_batches(self._score_latents, np.asarray(latent, np.float32))

    def predict_batch(self, image: jax.Array) -> Scores:
        """The compiled function itself, for timing: B a multiple of the devices, no copy back."""
        return self._predict(self.variables, image)

    def predict_paths(self, paths: Sequence[str]) -> Iterator[tuple[np.ndarray, Scores]]:
        """Reads and scores image files on all processes.

        Yields:
          Indices into `paths` (b,), and their scores, the same on every process; no padding.
        """
        batches = image_batches(
            paths, self.config.data.image_size, self.batch_size, self.config.data.num_workers,
            jax.process_index(), jax.process_count(),
        )  # fmt: skip
        sharded_ids = jax.jit(lambda ids: ids, out_shardings=replicated(self.mesh))
        for batch in batches:
            arrays = global_batch(batch, self.mesh)
            scores = self._predict(self.variables, arrays["image"])
            ids, scores = jax.device_get((sharded_ids(arrays["sample_id"]), scores))
            yield ids[ids >= 0], Scores(*(s[ids >= 0] for s in scores))

    def _in_batches(self, compiled: Any, inputs: np.ndarray) -> Scores:
        parts = []
        for start in range(0, len(inputs), self.batch_size):
            part = inputs[start : start + self.batch_size]
            padding = [(0, self.batch_size - len(part))] + [(0, 0)] * (part.ndim - 1)
            padded = jax.device_put(np.pad(part, padding), batch_sharding(self.mesh))
            scores = jax.device_get(compiled(self.variables, padded))
            parts.append([s[: len(part)] for s in scores])
        if not parts:
            raise UserError("nothing to score: the batch is empty")
        return Scores(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def load_model(workdir: Workdir, config: Config) -> Model:
    """Restores the newest checkpoint of a workdir as a compiled detector.

    Raises:
      UserError: no checkpoint, or the encoder's weights are not the ones of the training.
    """
    mesh = make_mesh(config.mesh)
    with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
        meta = checkpoints.meta()
        encoder = build_encoder(config.encoder, config.data.image_size)
        if encoder.fingerprint != meta["encoder"]:
            raise UserError(
                f"encoder.weights={config.encoder.weights}: other weights than the ones that "
                f"{workdir.path} was trained with"
            )
        params = jax.eval_shape(
            partial(init_params, config, encoder.latent_shape), jax.random.key(0)
        )
        channels = jax.ShapeDtypeStruct((encoder.latent_shape[-1],), np.float32)
        abstract = {
            "params": params,
            "ema_params": params,
            "frozen": LatentStats(channels, channels),
        }
        shardings = jax.tree.map(lambda _: replicated(mesh), abstract)
        restored = checkpoints.restore_model(abstract_like(abstract, shardings))
        step = checkpoints.latest_step()
    params = restored["ema_params" if config.inversion.use_ema else "params"]
    variables = DetectorVariables(encoder.variables, params, restored["frozen"])
    return Model(config, build_detector(config, encoder), variables, mesh, step or 0)


@dataclasses.dataclass(frozen=True)
class NormalScores:
    """The score terms of normal images: what a calibration is fitted on."""

    nll: np.ndarray
    map_range: np.ndarray
    held_out: bool
    """Whether the images were kept out of the training of the denoiser."""


def normals_key(config: Config, step: int) -> dict[str, Any]:
    """What the scores of normal images depend on, besides the images."""
    return {
        "step": step,
        "inversion": dataclasses.asdict(config.inversion),
    }


def score_normals(
    model: Model, workdir: Workdir, normals: Sequence[Sample] | None, held_out: bool
) -> NormalScores:
    """The scores of normal images under the model's settings, from the workdir or made now.

    Args:
      model: the detector.
      workdir: where they are kept.
      normals: the images, or None when they are not at hand.
      held_out: whether they were kept out of training.

    Raises:
      UserError: not in the workdir, and no images given.
    """
    key = normals_key(model.config, model.step)
    path = workdir.normals(key)
    if path.is_file():
        stored = files.read_json(path)
        return NormalScores(
            np.array(stored["nll"]), np.array(stored["map_range"]), stored["held_out"]
        )
    if normals is None:
        raise UserError(
            f"{workdir.path}: not calibrated for these inversion options; run "
            "`python -m invad_jax.eval` with them where the training images are"
        )
    nll, map_range = np.empty(len(normals)), np.empty(len(normals))
    for ids, scores in model.predict_paths([sample.path for sample in normals]):
        nll[ids], map_range[ids] = scores.nll, scores.map_range
    if runtime.is_primary():
        content = {"key": key, "held_out": held_out, "path": [s.path for s in normals],
                   "nll": nll.tolist(), "map_range": map_range.tolist()}  # fmt: skip
        files.write_json(path, content)
    return NormalScores(nll, map_range, held_out)


def calibrate(config: Config, normals: NormalScores) -> Calibration:
    """Fits the scale of the two terms and the threshold at the config's false-positive rate."""
    return calibration_lib.fit(
        normals.nll, normals.map_range, config.calibration.false_positive_rate, normals.held_out
    )


def load(workdir: str | Path, overrides: Sequence[str] = ()) -> Model:
    """Loads a trained detector.

    Args:
      workdir: the folder that `train` wrote.
      overrides: changes as `--set` takes them, such as "inversion.num_steps=5".
    """
    folder = Workdir(workdir)
    return load_model(folder, folder.resolve(None, overrides))
