"""Every option, once: its type, default, unit and source; those of networks in `networks.py`.

A config file (`configs/*.py`) defines `get_config() -> Config` and nothing else. The command line
changes single options: `--set inversion.num_steps=5 data.categories=bottle,cable`. The resolved
config is plain JSON, written to the workdir and every checkpoint. An option that some configs alone
read says which (`where`); elsewhere it is refused (`effect.py`).

Read next: `configs/hazelnut.py` for an example, `io.py` for where configs come from.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

from invad_jax.config.fields import free, free_when_trained, where
from invad_jax.config.networks import DenoiserConfig, EncoderConfig, TilingConfig, VAEConfig

_WHITE = "train.latent_stats=whiten"
_RETRIEVED = f"{_WHITE} and whitening.mean=retrieved"
_RESTORES_IN_STEPS = "inversion.paradigm=deco_diff|mad_ad|diad|transfusion"
_RESTORES = f"{_RESTORES_IN_STEPS}|omiad"
_INVERTS = "inversion.paradigm=inversion"
_STEPS = f"{_INVERTS} and inversion.num_steps!=0"
_ASKS = f"inversion.paradigm=reconstruction or {_STEPS}"
_WALKS = f"inversion.paradigm=reconstruction or {_INVERTS} or {_RESTORES_IN_STEPS}"
_COMPARES = f"{_RESTORES}|inversion|residual"
_FITTED = f"{_COMPARES} and scoring.prior=fitted"
_IN_PART = f"train.objective=diffusion and {_INVERTS} and scoring.prior=standard_normal"


@dataclass(frozen=True)
class DataConfig:
    """Which images. See `data/layouts.py` for what each layout expects on disk."""

    name: str = free("folder")
    """Layout: `mvtec` (MVTec AD and all that share its folders), `visa`, `bmad`, `real_iad`,
    `folder`, `csv`; `tfds`, any of them as records (`build_dataset.py`); or a sample set that needs
    no root: `hazelnut`, `procedural`. What was read is compared by content, so it may change."""
    root: str = free("")
    """Folder (or CSV/JSONL file) that holds the data set; relative to the current folder."""
    categories: tuple[str, ...] = free_when_trained(("all",))
    """Product types to use; `all` takes every one that is found. Some of those that were trained on
    can be evaluated alone."""
    image_size: int = 256
    """Side in pixels of the square that every image is resized to (PIL bilinear, no crop)."""
    aspect: Literal["stretch", "letterbox"] = where(_IN_PART, "stretch")
    """`stretch` makes a square of every image; `letterbox` keeps its proportions and fills the
    square up, with what takes no part in score, map and metrics."""
    region: str = free("", _IN_PART)
    """Image file whose marked pixels (white, as in a mask) are the part of every image that is
    looked at; empty: the whole. Workdirs keep a copy, and what was read is compared by content."""
    value_range: tuple[float, ...] = ()
    """Pixel values that are black and white in images deeper than 8 bits, for the whole data set;
    empty takes them from the training images, once (`data/depth.py`). 8 bits stay as they are."""
    max_pixels: int = free(178_956_970)
    """An image with more is refused, lest it takes all memory; the default is PIL's limit."""
    holdout_fraction: float = 0.1
    """Share of the training normals, per category, kept out of training for the calibration; 0
    calibrates on the training normals themselves."""
    num_workers: int = free(0)
    """Processes that decode the images that are encoded or scored; 0 decodes in threads of this
    process. Steps of training read latents, and those of `train_vae` decode in threads."""

    @property
    def in_part(self) -> bool:
        """Whether there may be positions of an image that take no part."""
        return self.aspect == "letterbox" or bool(self.region)


@dataclass(frozen=True)
class DiffusionConfig:
    """The forward process (`diffusion/schedule.py`), and what the network says of it."""

    num_timesteps: int = 1000
    schedule: Literal["linear", "scaled_linear", "cosine", "sigmoid", "given"] = "linear"
    """Family of the betas; `linear` is the published one (Ho et al. 2020)."""
    betas: tuple[float, ...] = where("diffusion.schedule!=cosine", (1e-4, 2e-2))
    """First and last; under `given` all of them, num_timesteps, part of the config, so that a
    workdir needs no other file."""
    prediction: Literal["eps", "v", "sample", "deviation"] = "eps"
    """What the network's output is (`diffusion/parameterization.py`). Training compares v with v,
    and otherwise the eps that follows from the output."""


@dataclass(frozen=True)
class VAELossConfig:
    """What `train_vae` minimises beside the absolute difference (`training/vae_loss.py`)."""

    kl_weight: float = 1e-6
    """Of the divergence from N(0, I); latent diffusion's, which keeps the latents bounded and no
    more."""
    perceptual_weight: float = 0.0
    """Of the distance between the features that `encoder` gives; 0 needs no encoder."""


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation of the denoiser, or of the VAE by `train_vae`; defaults are the published ones
    where the paper gives them."""

    num_steps: int = 10_000
    """0: no network; with `latent_stats=whiten` that is the detector of the Gaussians alone."""
    batch_size: int = 64
    """Global batch, over all devices and processes."""
    grad_accumulation: int = free(1)
    """Parts that a batch is taken through one after another, to save memory; their gradients are
    averaged, so the step is that of the whole batch."""
    learning_rate: float = 5e-5
    """Peak, reached after the warm-up."""
    warmup_steps: int = 1_000
    ema_decay: float = 0.999
    """Reached gradually: at step s the decay is min(ema_decay, (1 + s) / (10 + s))."""
    latent_stats: Literal["channel", "none", "whiten"] = "channel"
    """`channel` standardises the latents with statistics of the training set; `none` feeds them
    raw, as the published code does; `whiten` goes on from `channel` to coordinates in which normal
    latents are N(0, I), see `whitening`, for `objective=diffusion`."""
    objective: Literal[
        "diffusion",
        "deco_diff",
        "deco_diff_class",
        "masked",
        "masked_adaptive",
        "mad_ad",
        "diad",
        "transfusion",
        "omiad",
        "omiad_adversarial",
        "one_step",
    ] = "diffusion"
    """What the network learns: `diffusion`, the noise or v, as this method has it; or what another
    detector's does, with the outputs and inputs that it needs (`docs/rivals.md`)."""
    teacher: str = free_when_trained("", "train.objective=omiad|omiad_adversarial|one_step")
    """Workdir of the network, of the same sizes and images, that is distilled."""
    seed: int = 0
    checkpoint_every: int = free(1_000)
    """Steps between two checkpoints, of which the newest two stay; the last step writes one."""


@dataclass(frozen=True)
class WhiteningConfig:
    """Coordinates in which normal latents are N(0, I) (`coordinates.py`)."""

    mean: Literal["retrieved", "position"] = where(_WHITE, "retrieved")
    """What is subtracted before a Gaussian whitens what is left: `retrieved`, the mean of what
    normal images showed around the position, weighted by how near it comes; `position`, the mean
    of the position, which makes N(0, I) PaDiM's distance."""
    identity: float = where(_WHITE, 2.0)
    """Multiple of the identity added to the covariance of a position, in units of the mean
    variance."""
    radius: int = where(f"{_RETRIEVED} or inversion.paradigm=retrieval", 2)
    """Positions around one, in both directions, where vectors of normal images are looked for."""


@dataclass(frozen=True)
class MeshConfig:
    """How devices are laid out in training; scoring takes all there are. All split the batch."""

    fsdp: int = free(1)
    """Devices that split the parameters, their averages and the optimiser's; -1: all."""
    tensor: int = free(1)
    """Devices that split the layers of the DiT, for more devices than images in a batch; divides
    `denoiser.num_heads`, and a process's devices."""


@dataclass(frozen=True)
class InversionConfig:
    """The probability-flow ODE from data to noise (`diffusion/inversion.py`)."""

    num_steps: int = free(3, _WALKS)
    """S: Euler steps, and so function evaluations, an image. 0 inverts nothing: x0 itself is
    compared (`paradigm=inversion`), as the paper's ablation has it."""
    spacing: Literal["linspace", "paper", "early", "quadratic", "cubic", "exponential"] = free(
        "linspace", _ASKS
    )
    """Where the S timesteps lie; `linspace` is the published code's (0, 500, 999 for S = 3),
    `paper` the paper's (333, 666, 999), `early` a tenth of those: 100 for S = 1, the fast mode."""
    paradigm: Literal[
        "inversion",
        "reconstruction",
        "residual",
        "padim",
        "nearest_neighbour",
        "retrieval",
        "deco_diff",
        "mad_ad",
        "diad",
        "transfusion",
        "omiad",
    ] = free("inversion")
    """`inversion` is the method, the others are what it is compared with: `reconstruction`
    perturbs, denoises back and scores the squared error (`diffusion/reconstruction.py`);
    `residual` asks once, about one noise (`paradigms/residual.py`); `padim`, `nearest_neighbour`
    and `retrieval` ask no denoiser (`normality/mixture.py`); the last five are other diffusion
    detectors (`docs/rivals.md`)."""
    solver: Literal["ddim", "angle"] = free("ddim", _STEPS)
    """The Euler step: `ddim`, the published one, or `angle`, in arccos sqrt(alpha_bar), along which
    white normal latents stay where they are (`diffusion/inversion.py`)."""
    label: str = free("none", "inversion.paradigm=deco_diff")
    """The class that a network of classes is told of every image: its number, `none`, or
    `inferred`, that of the kind of normal images which x0 is likeliest one of."""
    noise_ratio: float = free(0.5, "inversion.paradigm=reconstruction|residual")
    """r: of the S levels of a reconstruction, the perturbation reaches the round(r S)-th; a
    residual is taken at t = round(r (T - 1))."""
    use_ema: bool = free(True, f"{_ASKS} or {_RESTORES}|residual")
    """Evaluate the averaged parameters; false takes the raw ones, as the published code does."""


Term = Literal["nll", "map_range", "map_mean", "map_max", "map_top"]
TERMS: tuple[str, ...] = typing.get_args(Term)
"""Fields of `scoring.Scores` of which an image score can be made, one number an image each."""


@dataclass(frozen=True)
class ScoringConfig:
    """What inverted latents are compared with, and what an image's score is made of."""

    prior: Literal["fitted", "standard_normal", "decoded"] = free("fitted", _COMPARES)
    """`fitted`: Gaussians per position, fitted on training normals (`normality/mixture.py`).
    `standard_normal`: N(0, I), the paper's; what a detector that restores changed, by itself.
    `decoded`: the same in images too, which a VAE decodes, as deco_diff and mad_ad publish it."""
    components: Literal["category", "cluster", "one"] = free_when_trained(
        "category", f"{_FITTED} or inversion.paradigm=padim or {_WHITE}"
    )
    """Of the Gaussians: one for each category that was trained on, one for each cluster that is
    found in the latents without their labels, or one for all. A test image needs no label; what it
    was taken for is reported."""
    terms: tuple[Term, ...] = free(())
    """Terms of the image score, each on the scale of normal images, added up; empty takes map_top,
    or the paper's nll and map_range where x_T of latents that are not white is compared with
    N(0, I)."""


@dataclass(frozen=True)
class CalibrationConfig:
    """From the terms of a score to one image score and a decision (`normality/calibration.py`)."""

    false_positive_rate: float = free(0.01)
    """Share of normal images that may be called anomalous; sets the threshold."""


@dataclass(frozen=True)
class EvalConfig:
    """How evaluation runs."""

    batch_size: int = free(16)
    """Images in a call of the compiled detector; CPUs take fewer where the network is large."""


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: DataConfig = DataConfig()
    encoder: EncoderConfig = EncoderConfig()
    tiling: TilingConfig = TilingConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    vae: VAEConfig = VAEConfig()
    vae_loss: VAELossConfig = VAELossConfig()
    train: TrainConfig = TrainConfig()
    whitening: WhiteningConfig = WhiteningConfig()
    mesh: MeshConfig = MeshConfig()
    inversion: InversionConfig = InversionConfig()
    scoring: ScoringConfig = ScoringConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    eval: EvalConfig = EvalConfig()
