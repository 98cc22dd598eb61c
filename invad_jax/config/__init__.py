"""Every option of an experiment: `options.py`, `networks.py`; where configs come from: `io.py`;
what is refused: `ranges.py`, `effect.py`."""

from invad_jax.config.names import option, option_names, option_text
from invad_jax.config.networks import DenoiserConfig, EncoderConfig, TilingConfig, VAEConfig
from invad_jax.config.options import (
    TERMS,
    CalibrationConfig,
    Config,
    DataConfig,
    DiffusionConfig,
    EvalConfig,
    InversionConfig,
    MeshConfig,
    ScoringConfig,
    TrainConfig,
    VAELossConfig,
    WhiteningConfig,
)

__all__ = [
    "TERMS",
    "CalibrationConfig",
    "Config",
    "DataConfig",
    "DenoiserConfig",
    "DiffusionConfig",
    "EncoderConfig",
    "EvalConfig",
    "InversionConfig",
    "MeshConfig",
    "ScoringConfig",
    "TilingConfig",
    "TrainConfig",
    "VAEConfig",
    "VAELossConfig",
    "WhiteningConfig",
    "option",
    "option_names",
    "option_text",
]
