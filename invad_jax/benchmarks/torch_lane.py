"""The same detector in PyTorch, from the same arrays: EfficientNet, DiT, inversion, N(0, I).

Written for comparison alone, in the plain style of that library: its convolutions of NCHW, its
fused attention, layer norm and GELU. Batch normalisations are folded into convolutions, and what
depends on the timestep alone is computed once, here as there. Needs torch, which nothing else does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from invad_jax.benchmarks import machine
from invad_jax.benchmarks.clock import Run
from invad_jax.benchmarks.subject import Subject
from invad_jax.diffusion.schedule import Plan
from invad_jax.encoders import describe_encoder, efficientnet
from invad_jax.errors import UserError
from invad_jax.paradigms.levels import rising_plan

LIMITS = "EfficientNets with a DiT of float32 that predicts eps, scored by N(0, I)"


def runs(
    subject: Subject, batch: int
) -> tuple[dict[str, Run], Callable[[], dict[str, np.ndarray]]]:
    """What is timed, for one batch size, and what it says of the images of the JAX lane.

    Returns:
      Runs by the names of `parts.detector_parts`; a function that gives `latent_norm` and `nll`.

    Raises:
      UserError: torch is not there, or has no such detector here.
    """
    _check(subject)
    # Threads that wait by turning would take the cores from the other library.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    try:
        import torch
    except ImportError as error:
        raise UserError("--against torch: pip install torch (requirements-oracles.txt)") from error
    torch.set_num_threads(machine.cores())
    side, (h, w, C) = subject.config.data.image_size, subject.latent_shape
    image = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    latent = np.random.default_rng(1).standard_normal((batch, h * w, C), np.float32)
    lane = Lane(torch, subject)
    image, latent = torch.from_numpy(image), torch.from_numpy(latent)

    def run(function: Callable[[Any], Any], value: Any) -> Run:
        def once() -> None:
            with torch.inference_mode():
                function(value)

        return once

    def said() -> dict[str, np.ndarray]:
        with torch.inference_mode():
            square, nll = lane.detector(image)
        return {"latent_norm": square.sqrt().reshape(batch, h, w).numpy(), "nll": nll.numpy()}

    return {
        "encoder": run(lane.encoder, image),
        "denoiser": run(lane.invert, latent),
        "detector": run(lane.detector, image),
    }, said


def _check(subject: Subject) -> None:
    config = subject.config
    fits = (
        config.encoder.name in efficientnet.VARIANTS
        and config.encoder.stage_resize == "bilinear"
        and config.encoder.pool == 1
        and not config.encoder.groups
        and not config.encoder.channels
        and not config.tiling.size
        and config.data.aspect == "stretch"
        and not config.data.region
        and config.denoiser.name == "dit"
        and config.denoiser.patch_size == 1
        and config.denoiser.dtype == "float32"
        and config.diffusion.prediction == "eps"
        and config.inversion.solver == "ddim"
        and config.train.latent_stats != "whiten"
        and subject.timesteps
    )
    if not fits or config.scoring.prior != "standard_normal":
        raise UserError(f"--against torch: has {LIMITS}")


class Lane:
    """The detector of a subject."""

    def __init__(self, torch: Any, subject: Subject):
        self.torch, self.F = torch, torch.nn.functional
        config = subject.config
        variant = efficientnet.VARIANTS[config.encoder.name]
        backbone, _ = describe_encoder(config.encoder, config.data.image_size)
        self.lite, self.native = variant.lite, variant.native_size
        self.stages = backbone.stages
        self.specs = efficientnet.block_specs(variant)[: backbone.stages[-1] + 1]
        self.shape, self.heads = subject.latent_shape, config.denoiser.num_heads
        self.plan = Plan(*(np.asarray(one, np.float64) for one in rising_plan(config)))
        tensor = lambda array: torch.from_numpy(np.array(array))  # noqa: E731, of each leaf
        self.encoder_weights = self._convolutions(
            jax.tree.map(np.asarray, subject.variables.encoder)
        )
        self.params = jax.tree.map(tensor, jax.device_get(subject.variables.denoiser))
        self.stats = [tensor(s).reshape(1, 1, -1) for s in subject.variables.latent_stats]
        self.mean, self.std = (
            torch.tensor(x).reshape(1, 3, 1, 1) for x in (backbone.mean, backbone.std)
        )

    def _convolutions(self, tree: Any) -> Any:
        """Kernels (kh, kw, in, out), or of one channel, or (in, out) -> (out, in, kh, kw)."""
        if "kernel" not in tree:
            return {name: self._convolutions(value) for name, value in tree.items()}
        kernel = tree["kernel"]
        axes = {4: (3, 2, 0, 1), 3: (2, 0, 1), 2: (1, 0)}[kernel.ndim]
        kernel = kernel.transpose(axes)
        kernel = {4: kernel, 3: kernel[:, None], 2: kernel[..., None, None]}[kernel.ndim]
        weight = self.torch.from_numpy(np.ascontiguousarray(kernel))
        return weight, self.torch.from_numpy(np.array(tree["bias"]))

    def _activate(self, x: Any) -> Any:
        return self.F.relu6(x) if self.lite else self.F.silu(x)

    def encoder(self, image: Any) -> Any:
        """(B, S, S, 3) uint8 -> (B, h w, C)."""
        F, weights = self.F, self.encoder_weights
        x = (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        before, after = efficientnet.same_padding(self.native, 3, 2)
        x = self._activate(F.conv2d(F.pad(x, (before, after) * 2), *weights["stem"], stride=2))
        outputs = []
        for i, spec in enumerate(self.specs):
            x = self._block(weights[f"block_{i}"], spec, x)
            outputs.append(x)
        return self._stacked([outputs[i] for i in self.stages])

    def _block(self, weights: Any, spec: efficientnet.BlockSpec, x: Any) -> Any:
        F, h = self.F, x
        if spec.expansion > 1:
            h = self._activate(F.conv2d(h, *weights["expand"]))
        h = F.pad(h, spec.padding * 2)
        h = F.conv2d(h, *weights["depthwise"], stride=spec.stride, groups=spec.inner_channels)
        h = self._activate(h)
        if not self.lite:
            s = F.silu(F.conv2d(h.mean((2, 3), keepdim=True), *weights["se"]["reduce"]))
            h = h * self.torch.sigmoid(F.conv2d(s, *weights["se"]["expand"]))
        h = F.conv2d(h, *weights["project"])
        return x + h if spec.stride == 1 and spec.in_channels == spec.out_channels else h

    def _stacked(self, stages: list[Any]) -> Any:
        h, w, _ = self.shape
        parts = [
            x
            if x.shape[2:] == (h, w)
            else self.F.interpolate(x, size=(h, w), mode="bilinear", align_corners=False)
            for x in stages
        ]
        return self.torch.cat(parts, 1).flatten(2).transpose(1, 2)  # (B, h w, C)

    def invert(self, x: Any) -> Any:
        """x0 (B, N, C) -> x_T, by Euler steps."""
        levels = zip(self.plan.alpha_bar, self.plan.alpha_bar_next, strict=True)
        for step, (level, level_next) in enumerate(levels):
            eps = self.denoise(x, step)
            x0_hat = (x - float(np.sqrt(1 - level)) * eps) / float(np.sqrt(level))
            x = float(np.sqrt(level_next)) * x0_hat + float(np.sqrt(1 - level_next)) * eps
        return x

    def denoise(self, x: Any, step: int) -> Any:
        """eps of (B, N, C) at one of the timesteps."""
        F, params = self.F, self.params
        x = _dense(x, params["patch_embedding"]) + params["positions"]
        D, blocks = x.shape[-1], params["blocks"]
        for k in range(len(blocks["modulation"]["vectors"])):
            vectors = blocks["modulation"]["vectors"][k, step].split(D)
            shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = vectors
            h = F.layer_norm(x, (D,), eps=1e-6) * (1 + scale) + shift
            x = x + gate * self._attention(h, blocks["attention"], k)
            h = F.layer_norm(x, (D,), eps=1e-6) * (1 + scale_mlp) + shift_mlp
            h = F.gelu(_dense(h, blocks["mlp"]["hidden"], k), approximate="tanh")
            x = x + gate_mlp * _dense(h, blocks["mlp"]["out"], k)
        shift, scale = params["modulation"]["vectors"][step].split(D)
        return _dense(F.layer_norm(x, (D,), eps=1e-6) * (1 + scale) + shift, params["out"])

    def _attention(self, x: Any, weights: Any, k: int) -> Any:
        B, N, D = x.shape
        qkv = _dense(x, weights["qkv"], k).reshape(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = self.F.scaled_dot_product_attention(*qkv)  # (B, heads, N, D / heads)
        return _dense(x.transpose(1, 2).reshape(B, N, D), weights["proj"], k)

    def detector(self, image: Any) -> tuple[Any, Any]:
        """(B, S, S, 3) uint8 -> squared lengths of x_T (B, N), and its NLL in nats (B,)."""
        mean, std = self.stats
        x_T = self.invert((self.encoder(image) - mean) / std)
        square = x_T.square().sum(-1)
        size = x_T.shape[1] * x_T.shape[2]
        return square, 0.5 * (square.sum(-1) + size * float(np.log(2 * np.pi)))


def _dense(x: Any, layer: Any, k: int | None = None) -> Any:
    kernel, bias = layer["kernel"], layer["bias"]
    return x @ (kernel if k is None else kernel[k]) + (bias if k is None else bias[k])


def difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest difference of any score, as a share of the largest score of its name."""
    return max(
        float(np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max())
        for name in theirs
    )
