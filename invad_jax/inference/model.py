"""A trained detector on this machine's devices, compiled.

Read next: `load.py`, where it comes from; `calibrate.py`; `predictor.py`, images to decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.denoisers import fixed_steps
from invad_jax.detector import DetectorVariables, LatentStats
from invad_jax.encoders import Decode, Encoder
from invad_jax.errors import UserError
from invad_jax.inference.arrays import coordinates_to_device, reference_to_device
from invad_jax.inference.assembly import build_detector, denoise, exact
from invad_jax.inference.batches import fitting, in_batches
from invad_jax.inference.images import run_on_images
from invad_jax.inference.in_parts import at_once, in_parts, rounds_over
from invad_jax.inference.network import check_latent, outputs_of, trajectory_of
from invad_jax.normality.reference import Learnt
from invad_jax.normality.whitening import FittedCoordinates
from invad_jax.paradigms import paradigm_of
from invad_jax.paradigms.classes import class_numbers
from invad_jax.runtime.sharding import batch_sharding, put, replicated
from invad_jax.scoring import Scores, without_maps


class Model:
    """A detector with its arrays on a mesh, and its compiled functions.

    The encoder is built when an image is first scored: latents can be scored without its weights.
    """

    def __init__(
        self,
        config: Config,
        latent_shape: tuple[int, int, int],
        denoiser: Any,
        latent_stats: LatentStats,
        make_encoder: Callable[[], Encoder],
        mesh: Mesh,
        step: int,
        coordinates: FittedCoordinates | None = None,
        made_of: Mapping[str, Any] | None = None,
    ):
        """See `load_model`; `denoiser` are its parameters, and their type is decided."""
        self.config = config
        self.latent_shape = latent_shape
        self.mesh = mesh
        self.step = step
        self.coordinates = coordinates
        self.made_of = made_of or {}
        """Of the training: `dataset`, `encoder` and `config_hash`; None where that is not known."""
        self._make_encoder = make_encoder
        self.paradigm = paradigm_of(config)
        used = coordinates if coordinates and self.paradigm.whitened else None
        self.component_names = used.component_names if used else ("",)
        """Of `Scores.component`."""
        decode, decoder = self._way_back() if self.paradigm.decodes else (None, None)
        self.detector = build_detector(
            config,
            latent_shape,
            in_parts(lambda variables, image: self.encoder.apply(variables, image), mesh),
            rounds_over(mesh),
            decode,
        )
        sizes, tables = config.denoiser, self._tables(denoiser)
        self._network = fixed_steps.on_host(sizes, denoiser) if tables else denoiser
        self._without_encoder = put(
            DetectorVariables(
                (),
                fixed_steps.narrow(sizes, fixed_steps.fold(denoiser, tables)),
                latent_stats,
                coordinates=coordinates_to_device(used) if used else None,
                decoder=decoder,
            ),
            replicated(mesh),
        )
        compile_on_mesh = partial(jax.jit, out_shardings=replicated(mesh))
        arrays, batch = replicated(mesh), batch_sharding(mesh)
        self._predict = compile_on_mesh(
            self.detector.predict_without_maps, in_shardings=(arrays, batch)
        )
        self._score_latents = compile_on_mesh(
            self.detector.score_latents, in_shardings=(arrays, batch)
        )
        self._judge_latents = compile_on_mesh(
            lambda variables, latent: without_maps(self.detector.score_latents(variables, latent)),
            in_shardings=(arrays, batch),
        )
        self._scored_states = compile_on_mesh(
            self.detector.scored_states, in_shardings=(arrays, batch)
        )
        self._walk = compile_on_mesh(self.detector.walk, in_shardings=(arrays, batch))
        self._judge = compile_on_mesh(
            lambda variables, states: without_maps(self.detector.judge(variables, states)),
            in_shardings=(arrays, batch),
        )
        self._denoise = compile_on_mesh(
            exact(config, partial(denoise, config)), in_shardings=(arrays, batch, batch)
        )

    def _way_back(self) -> tuple[Decode, Any]:
        if self.encoder.load_decoder is None:
            raise UserError(
                f"scoring.prior=decoded: encoder.name={self.config.encoder.name} has no decoder; "
                "a VAE has one"
            )
        return self.encoder.load_decoder()

    def _tables(self, params: Any) -> Any:
        """What the denoiser makes of the timesteps of this way of comparing alone."""
        tables = partial(fixed_steps.tables, self.config.denoiser, self.paradigm.timesteps)
        return jax.jit(exact(self.config, tables), out_shardings=replicated(self.mesh))(params)

    def with_config(self, config: Config) -> Model:
        """The same arrays under other options of evaluation; their type is decided."""
        arrays = self._without_encoder
        return Model(
            config,
            self.latent_shape,
            self._network,
            arrays.latent_stats,
            lambda: self.encoder,
            self.mesh,
            self.step,
            self.coordinates,
            self.made_of,
        )

    @cached_property
    def encoder(self) -> Encoder:
        """The frozen encoder.

        Raises:
          UserError: its weights cannot be had, or are not the ones of the training.
        """
        return self._make_encoder()

    @cached_property
    def _encoder_variables(self) -> Any:
        return put(self.encoder.variables, replicated(self.mesh))

    @cached_property
    def network(self) -> Any:
        """The denoiser's parameters as they were trained, for any timestep."""
        return put(self._network, replicated(self.mesh))

    @property
    def variables(self) -> DetectorVariables:
        """Every array that scoring needs, on the mesh; the denoiser's know its timesteps alone."""
        return self._without_encoder._replace(encoder=self._encoder_variables)

    def adopt(self, learnt: Learnt) -> None:
        """Compares from now on with what was learnt of normal images."""
        arrays = reference_to_device(learnt)
        if learnt.classes:
            names = learnt.classes.name.tolist()
            arrays = arrays._replace(
                label=jax.numpy.asarray(class_numbers(self.config.denoiser, names))
            )
        arrays = put(arrays, replicated(self.mesh))
        self._without_encoder = self._without_encoder._replace(reference=arrays)
        if any(learnt.component_names):
            self.component_names = learnt.component_names

    @property
    def batch_size(self) -> int:
        """Images of a compiled call, a multiple of the devices: see `in_parts.at_once`."""
        platform = self.mesh.devices.flat[0].platform
        return at_once(self.config, self.latent_shape[:2], self.mesh.size, platform)

    def batch_size_for(self, count: int) -> int:
        """The batch size that so many images, at least 1, are scored in."""
        return fitting(count, self.batch_size, self.mesh.size)

    def predict(self, image: np.ndarray, batch_size: int | None = None) -> Scores:
        """Scores images; NumPy arrays come back, and no `anomaly_map`: see `data.maps`.

        Args:
          image: (B, H, W, 3) uint8 of the model's size, any B.
          batch_size: compiled for; default that of B images.
        """
        batch_size = batch_size or self.batch_size_for(len(image))
        return in_batches(self._predict, self.variables, batch_size, self.mesh, image)

    def score_latents(self, latent: np.ndarray) -> Scores:
        """Scores latents as they come from the encoder, (B, h, w, C) float32, any B.

        Args:
          latent: of the model's `latent_shape`; U-Net and MLP take other grids too.

        Raises:
          UserError: the network takes other latents.
        """
        latent = np.asarray(latent, np.float32)
        self._check_latent(latent.shape)
        return self._in_batches(self._score_latents, self._without_encoder, latent)

    def judge_latents(self, latent: np.ndarray) -> Scores:
        """As `score_latents`, of the model's own grid, without `anomaly_map` and `x_T`, which are
        large."""
        latent = np.asarray(latent, np.float32)
        return self._in_batches(self._judge_latents, self._without_encoder, latent)

    def scored_states(self, latent: np.ndarray) -> np.ndarray:
        """What of latents is scored, (B, M, h, w, C) float32: what a reference is learnt from."""
        return self._in_batches(self._scored_states, self._without_encoder, np.asarray(latent))

    @property
    def latent_stats(self) -> LatentStats:
        """Of the channels."""
        return self._without_encoder.latent_stats

    def walk(self, x0: np.ndarray) -> np.ndarray:
        """The states from x0 as the network takes it: (B, h, w, C) -> (B, M, h, w, C)."""
        return self._in_batches(self._walk, self._without_encoder, x0)

    def judge(self, states: np.ndarray, learnt: Learnt | None = None) -> Scores:
        """Scores states (B, M, h, w, C) by what was learnt; None: as the model does.

        There is no `anomaly_map`.
        """
        variables = self._without_encoder
        if learnt:
            arrays = put(reference_to_device(learnt), replicated(self.mesh))
            variables = variables._replace(reference=arrays)
        return self._in_batches(self._judge, variables, states)

    def denoise(self, x_t: np.ndarray, t: int | np.ndarray) -> np.ndarray:
        """The predicted noise, (B, h, w, C): one evaluation of the network, nothing standardised.

        Args:
          x_t: (B, h, w, C) float32, any B.
          t: timestep of all, or (B,) of each.
        """
        x_t = np.asarray(x_t, np.float32)
        self._check_latent(x_t.shape)
        t = np.broadcast_to(np.asarray(t, np.int32), len(x_t))
        return self._in_batches(self._denoise, self.network, x_t, t)

    def outputs(
        self, x_t: np.ndarray, t: int | np.ndarray, label: Any = None, **given: Any
    ) -> dict[str, np.ndarray]:
        """All that the network says, by name: one evaluation, nothing standardised.

        Args:
          x_t: (B, h, w, C) float32.
          t: timestep of all, (1,) or (B,).
          label: class of each image, where a network asks for one; None: none.
          **given: what else a network sees, such as `mask` or `image`.
        """
        x_t = np.asarray(x_t, np.float32)
        self._check_latent(x_t.shape)
        return outputs_of(self.config, self.network, x_t, t, {"label": label, **given})

    def trajectory(
        self, x0: np.ndarray, label: Any = None, num_steps: int | None = None, **given: Any
    ) -> np.ndarray:
        """The states that the paradigm visits, (S + 1, B, h, w, C), nothing standardised.

        Args:
          x0: (B, h, w, C) float32.
          label: as in `outputs`.
          num_steps: S; None: `inversion.num_steps`.
          **given: what else the network sees, or `noise`, standard normal, where a path takes it.
        """
        x0 = np.asarray(x0, np.float32)
        self._check_latent(x0.shape)
        steps = [] if num_steps is None else [f"inversion.num_steps={num_steps}"]
        config = override(self.config, steps)
        return trajectory_of(config, self.network, x0, {"label": label, **given})

    def predict_batch(self, image: jax.Array) -> Scores:
        """The compiled function itself, for timing: B a multiple of the devices, no copy back."""
        return self._predict(self.variables, image)

    def predict_paths(
        self, paths: Sequence[str], skip_unreadable: bool = False, of: int | None = None
    ) -> Iterator[tuple[np.ndarray, Scores]]:
        """Reads and scores image files on all processes.

        Args:
          paths: the same on all processes.
          skip_unreadable: leaves out the index of an image that cannot be read, instead of failing.
          of: how many images there are in all, by which the batch size is chosen; these if None.

        Returns:
          Indices into `paths` (b,), and their scores, the same on every process; no padding, and
          no `anomaly_map`.
        """
        batch_size = self.batch_size_for(of or len(paths))
        variables, data = self.variables, self.config.data
        return run_on_images(
            self._predict, variables, paths, data, batch_size, self.mesh, skip_unreadable
        )

    def _check_latent(self, shape: tuple[int, ...]) -> None:
        fixed = self.coordinates is not None or self._without_encoder.reference is not None
        check_latent(self.config, self.latent_shape, self._network, fixed, shape)

    def _in_batches(self, compiled: Any, variables: Any, *inputs: np.ndarray) -> Any:
        return in_batches(compiled, variables, self.batch_size, self.mesh, *inputs)
