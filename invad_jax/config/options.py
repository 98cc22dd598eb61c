"""Every option of the system, once: its type, default, unit and source.

A config file (`configs/*.py`) defines `get_config() -> Config` and nothing else. The command line
changes single options: `--set inversion.num_steps=5 --set data.categories=bottle,cable`. The
resolved config is plain JSON, written to the workdir and into every checkpoint. An option that some
configs alone read says which (`where`); elsewhere it is refused (`effect.py`).

Read next: `configs/hazelnut.py` for an example, `io.py` for where configs come from.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


def _where(where: str, default: Any) -> Any:
    """A field that is read only under other options: `effect.holds` has the language."""
    return field(default=default, metadata={"where": where})


def _free(default: Any, where: str = "") -> Any:
    """A field that may differ between the run that wrote a workdir and the one that reads it."""
    return field(default=default, metadata={"free": True, "where": where})


def _free_when_trained(default: Any, where: str = "") -> Any:
    """A field that may differ when a workdir is read, but not when its training goes on."""
    return field(default=default, metadata={"free": True, "training": True, "where": where})


_DIT = "denoiser.name=dit|dit_diffusers"
_BLOCKS = "denoiser.name=dit|mlp|dit_diffusers"
_UNET = "denoiser.name=unet"
_UNETS = f"{_UNET}|unet_deco_diff|unet_mad_ad|unet_diad|unet_transfusion"
_WHITE = "train.latent_stats=whiten"
_RETRIEVED = f"{_WHITE} and whitening.mean=retrieved"
_RESTORES_IN_STEPS = "inversion.paradigm=deco_diff|mad_ad|diad|transfusion"
_RESTORES = f"{_RESTORES_IN_STEPS}|omiad"
_INVERTS = "inversion.paradigm=inversion"
_ASKS = f"inversion.paradigm=reconstruction or {_INVERTS}"
_WALKS = f"{_ASKS} or {_RESTORES_IN_STEPS}"
_COMPARES = f"{_RESTORES}|inversion|residual"
_FITTED = f"{_COMPARES} and scoring.prior=fitted"
_IN_PART = f"train.objective=diffusion and {_INVERTS} and scoring.prior=standard_normal"


@dataclass(frozen=True)
class DataConfig:
    """Which images. See `data/layouts.py` for what each layout expects on disk."""

    name: str = _free("folder")
    """Layout: `mvtec` (MVTec AD and all that share its folders), `visa`, `bmad`, `real_iad`,
    `folder`, `csv`; `tfds`, any of them as records (`build_dataset.py`); or a sample set that needs
    no root: `hazelnut`, `procedural`. What was read is compared by content, so it may change."""
    root: str = _free("")
    """Folder (or CSV/JSONL file) that holds the data set; relative to the current folder."""
    categories: tuple[str, ...] = _free_when_trained(("all",))
    """Product types to use; `all` takes every one that is found. Some of those that were trained on
    can be evaluated alone."""
    image_size: int = 256
    """Side in pixels of the square that every image is resized to (PIL bilinear, no crop)."""
    aspect: Literal["stretch", "letterbox"] = _where(_IN_PART, "stretch")
    """`stretch` makes a square of every image; `letterbox` keeps its proportions and fills the
    square up, with what takes no part in score, map and metrics."""
    region: str = _free("", _IN_PART)
    """Image file whose marked pixels (white, as in a mask) are the part of every image that is
    looked at; empty: the whole. Workdirs keep a copy, and what was read is compared by content."""
    value_range: tuple[float, ...] = ()
    """Pixel values that are black and white in images deeper than 8 bits, for the whole data set;
    empty takes them from the training images, once (`data/depth.py`). 8-bit images stay as they
    are."""
    max_pixels: int = _free(178_956_970)
    """An image with more is refused, lest it takes all memory; the default is PIL's limit."""
    holdout_fraction: float = 0.1
    """Share of the training normals, per category, kept out of training for the calibration; 0
    calibrates on the training normals themselves."""
    num_workers: int = _free(0)
    """Grain worker processes that decode images; 0 decodes in threads of this process."""

    @property
    def in_part(self) -> bool:
        """Whether there may be positions of an image that take no part."""
        return self.aspect == "letterbox" or bool(self.region)


@dataclass(frozen=True)
class EncoderConfig:
    """The frozen network that turns an image into a latent. In `train_vae`, which makes such a
    network, the one whose features the perceptual term compares."""

    name: str = "efficientnet_lite0"
    """One of `encoders.ENCODERS`."""
    weights: str = _free("auto")
    """`auto`: the encoder's published weights (see `encoders/sources.py`); `random`: untrained, for
    tests; else the path of a file, or of a VAE's workdir. What was loaded is compared by content,
    so the path may change."""
    stages: tuple[int, ...] = ()
    """Indices of the blocks whose outputs are stacked; empty takes the encoder's own default."""
    stage_resize: Literal["bilinear", "area"] = "bilinear"
    """How the stages are brought to one grid: `bilinear` without antialiasing as published, or
    `area`, the mean of all the positions a cell covers."""
    pool: int = 1
    """Side of the mean pooling applied to the stacked grid; 2 makes 8 x 8 out of 16 x 16."""
    groups: int = 0
    """Runs of consecutive stages, as many in each, whose mean takes their place; 0 keeps every
    stage. 8 layers of a vision transformer in 2 groups give twice its width."""
    channels: int = 0
    """Principal components of the features of the normal images, learnt before training, that
    latents are made of; 0 keeps the channels as they are."""


@dataclass(frozen=True)
class TilingConfig:
    """Large images through the encoder in parts (`encoders/tiles.py`)."""

    size: int = 0
    """Side in pixels of the overlapping tiles that the image of `data.image_size` is cut into; the
    latents of all of them become one grid. 0: the encoder sees the image whole."""
    overlap: int = _where("tiling.size!=0", 0)
    """Pixels that neighbouring tiles share, in which their latents are blended."""


Variant = Literal[
    "pad_at_end",
    "resample_in_blocks",
    "time_scale",
    "shifted_frequencies",
    "no_middle_attention",
    "centred_input",
]


@dataclass(frozen=True)
class DenoiserConfig:
    """The network that predicts the noise; the default sizes are the paper's."""

    name: Literal[
        "dit",
        "unet",
        "mlp",
        "dit_diffusers",
        "unet_deco_diff",
        "unet_mad_ad",
        "unet_diad",
        "unet_transfusion",
    ] = "dit"
    """`dit_diffusers` is the DiT of that library, with a timestep embedding in each block; the last
    four are the published networks of other detectors (`docs/rivals.md`)."""
    width: int = 2048
    depth: int = _where(_BLOCKS, 16)
    """Blocks."""
    num_heads: int = _where(f"{_DIT}|unet_mad_ad|unet_diad", 8)
    """Attention heads."""
    patch_size: int = _where(_DIT, 1)
    """Side in latent positions of one token."""
    num_res_blocks: int = _where(_UNETS, 2)
    """Residual blocks a level."""
    channel_mult: tuple[int, ...] = _where(_UNETS, (1, 2, 3, 4))
    """Width multipliers, one a level."""
    attention_downsamplings: tuple[int, ...] = _where(_UNETS, (2, 4, 8))
    """Downsampling factors at which attention is applied."""
    head_channels: int = _where(f"{_UNET}|unet_deco_diff", 64)
    """Channels of one attention head, 0 for one head of all channels."""
    norm_groups: int = _where(_UNET, 32)
    """Groups of the normalisations, where that divides the channels."""
    norm_eps: float = _where("denoiser.name=unet|dit_diffusers", 1e-5)
    """Epsilon of the normalisations (unet), or of the second one of a block (dit_diffusers)."""
    context: tuple[int, ...] = _where("denoiser.name=unet_deco_diff|unet_diad", ())
    """Number and width of the vectors that transformers attend to: one a class (unet_deco_diff), or
    the tokens of a text (unet_diad; 0 if each call brings its own)."""
    variants: tuple[Variant, ...] = _where(_UNET, ())
    """What the U-Nets of others do in another way; `convert` finds it. The grid is halved by a
    convolution padded at the ends only (`pad_at_end`, Ho et al. 2020), or within residual blocks,
    as it is doubled then too (`resample_in_blocks`, Dhariwal & Nichol 2021); the timestep also
    scales, after the normalisation (`time_scale`, Nichol & Dhariwal 2021); its lowest frequency is
    1 / 10000 (`shifted_frequencies`, Ho et al.); there is no attention between the way down and
    the way up (`no_middle_attention`); an input of 0..1 becomes -1..1 (`centred_input`)."""
    dtype: Literal["float32", "bfloat16"] = _free_when_trained("float32")
    """Type of the activations; parameters and normalisations stay float32."""
    remat: bool = _free(False)
    """Recompute each block's activations in the backward pass, to save memory."""


@dataclass(frozen=True)
class DiffusionConfig:
    """The forward process (`diffusion/schedule.py`), and what the network says of it."""

    num_timesteps: int = 1000
    schedule: Literal["linear", "scaled_linear", "cosine", "sigmoid", "given"] = "linear"
    """Family of the betas; `linear` is the published one (Ho et al. 2020)."""
    beta_range: tuple[float, ...] = _where(
        "diffusion.schedule=linear|scaled_linear|sigmoid", (1e-4, 2e-2)
    )
    """First and last beta."""
    betas: tuple[float, ...] = _where("diffusion.schedule=given", ())
    """All of them, num_timesteps, part of the config, so that a workdir needs no other file."""
    prediction: Literal["eps", "v", "sample", "deviation"] = "eps"
    """What the network's output is (`diffusion/parameterization.py`). Training compares v with v,
    and otherwise the eps that follows from the output."""


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of an AutoencoderKL; the defaults are those of Stable Diffusion's."""

    width: int = 128
    """Channels of the first convolution."""
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each level over `width`; the grid is halved between levels."""
    num_res_blocks: int = 2
    """Residual blocks per level of the encoder; the decoder has one more."""
    encoder_attention: tuple[int, ...] = ()
    """Downsampling factors (1, 2, 4, ...) where each block of the encoder is followed by attention;
    the middle always has it."""
    decoder_attention: tuple[int, ...] = ()
    """The same for the decoder. KL-16 has attention at 16 in its encoder only."""
    latent_channels: int = 4

    @property
    def downsampling(self) -> int:
        """Image side over latent side."""
        return 2 ** (len(self.multipliers) - 1)


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
    grad_accumulation: int = _free(1)
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
    latents are N(0, I), see `whitening`."""
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
    teacher: str = _free_when_trained("", "train.objective=omiad|omiad_adversarial|one_step")
    """Workdir of the network, of the same sizes and images, that is distilled."""
    seed: int = 0
    checkpoint_every: int = _free(1_000)
    """Steps between two checkpoints, of which the newest two stay; the last step writes one."""


@dataclass(frozen=True)
class WhiteningConfig:
    """Coordinates in which normal latents are N(0, I) (`coordinates.py`)."""

    mean: Literal["retrieved", "position"] = _where(_WHITE, "retrieved")
    """What is subtracted before a Gaussian whitens what is left: `retrieved`, the mean of what
    normal images showed around the position, weighted by how near it comes; `position`, the mean
    of the position, which makes N(0, I) PaDiM's distance."""
    identity: float = _where(_WHITE, 2.0)
    """Multiple of the identity added to the covariance of a position, in units of the mean
    variance."""
    radius: int = _where(f"{_RETRIEVED} or inversion.paradigm=retrieval", 2)
    """Positions around one, in both directions, where vectors of normal images are looked for."""


@dataclass(frozen=True)
class MeshConfig:
    """How devices are laid out in training; scoring takes all there are. All split the batch."""

    fsdp: int = _free(1)
    """Devices that split the parameters, their averages and the optimiser's; -1: all."""
    tensor: int = _free(1)
    """Devices that split the layers of the DiT instead of the batch, for more devices than images
    in a batch; must divide `denoiser.num_heads`, and a process's devices."""


@dataclass(frozen=True)
class InversionConfig:
    """The probability-flow ODE from data to noise (`diffusion/inversion.py`)."""

    num_steps: int = _free(3, _WALKS)
    """S: Euler steps, and so function evaluations, an image."""
    spacing: Literal["linspace", "paper", "quadratic", "cubic", "exponential"] = _free(
        "linspace", _ASKS
    )
    """Where the S timesteps lie; `linspace` is the published code's (0, 500, 999 for S = 3),
    `paper` the paper's (333, 666, 999)."""
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
    ] = _free("inversion")
    """`inversion` is the method, the others are what it is compared with: `reconstruction`
    perturbs, denoises back and scores the squared error (`diffusion/reconstruction.py`);
    `residual` asks once, about one noise (`paradigms/residual.py`); `padim`, `nearest_neighbour`
    and `retrieval` ask no denoiser (`normality/mixture.py`); the last five are other diffusion
    detectors (`docs/rivals.md`)."""
    solver: Literal["ddim", "angle"] = _free("ddim", _INVERTS)
    """The Euler step: `ddim`, the published one, or `angle`, in arccos sqrt(alpha_bar), along which
    white normal latents stay where they are (`diffusion/inversion.py`)."""
    label: str = _free("none", "inversion.paradigm=deco_diff")
    """The class that a network which was trained with classes is told of every image: its number,
    `none`, or `inferred`, that of the kind of normal images which x0 is likeliest one of."""
    noise_ratio: float = _free(0.5, "inversion.paradigm=reconstruction|residual")
    """r: of the S levels of a reconstruction, the perturbation reaches the round(r S)-th; a
    residual is taken at t = round(r (T - 1))."""
    use_ema: bool = _free(True, f"{_ASKS} or {_RESTORES}|residual")
    """Evaluate the averaged parameters; false takes the raw ones, as the published code does."""


Term = Literal["nll", "map_range", "map_mean", "map_max", "map_top"]
TERMS: tuple[str, ...] = typing.get_args(Term)
"""Fields of `scoring.Scores` of which an image score can be made, one number an image each."""


@dataclass(frozen=True)
class ScoringConfig:
    """What inverted latents are compared with, and what an image's score is made of."""

    prior: Literal["fitted", "standard_normal", "decoded"] = _free("fitted", _COMPARES)
    """`fitted`: Gaussians per position, fitted on training normals (`normality/mixture.py`).
    `standard_normal`: N(0, I), the paper's; what a detector that restores changed, by itself.
    `decoded`: the same in images too, which a VAE decodes, as deco_diff and mad_ad publish it."""
    components: Literal["category", "cluster", "one"] = _free_when_trained(
        "category", f"{_FITTED} or inversion.paradigm=padim or {_WHITE}"
    )
    """Of the Gaussians: one for each category that was trained on, one for each cluster that is
    found in the latents without their labels, or one for all. A test image needs no label; what it
    was taken for is reported."""
    terms: tuple[Term, ...] = _free(())
    """Terms of the image score, each on the scale of normal images, added up; empty takes map_top
    under a fitted prior, the paper's nll and map_range under N(0, I)."""


@dataclass(frozen=True)
class CalibrationConfig:
    """From the terms of a score to one image score and a decision (`normality/calibration.py`)."""

    false_positive_rate: float = _free(0.01)
    """Share of normal images that may be called anomalous; sets the threshold."""


@dataclass(frozen=True)
class EvalConfig:
    """How evaluation runs and what it draws."""

    batch_size: int = _free(16)


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


def option_names() -> list[str]:
    """All options as `section.option`."""
    defaults = Config()
    return [
        f"{section.name}.{option.name}"
        for section in dataclasses.fields(defaults)
        for option in dataclasses.fields(getattr(defaults, section.name))
    ]


def option(config: Config, name: str) -> Any:
    """The value of `section.option`."""
    section, _, its_name = name.partition(".")
    return getattr(getattr(config, section), its_name)


def option_text(config: Config, name: str) -> str:
    """The value of an option as `--set` takes it.

    >>> option_text(Config(), "denoiser.channel_mult"), option_text(Config(), "denoiser.remat")
    ('[1,2,3,4]', 'false')
    """
    value = option(config, name)
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def metadata(name: str) -> Mapping[str, Any]:
    """Of the field of `section.option`: `free`, `training`, `where`."""
    section, _, its_name = name.partition(".")
    return getattr(Config, section).__dataclass_fields__[its_name].metadata
