"""Every option of an experiment: `options.py`; where configs come from: `io.py`;
what is refused: `ranges.py`, `effect.py`."""

from invad_jax.config.options import (
    TERMS,
    CalibrationConfig,
    Config,
    DataConfig,
    DenoiserConfig,
    DiffusionConfig,
    EncoderConfig,
    EvalConfig,
    InversionConfig,
    MeshConfig,
    ScoringConfig,
    TrainConfig,
    VAEConfig,
    VAELossConfig,
    WhiteningConfig,
    option,
    option_names,
    option_text,
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
    "TrainConfig",
    "VAEConfig",
    "VAELossConfig",
    "WhiteningConfig",
    "option",
    "option_names",
    "option_text",
]
