"""Every option of an experiment: `options.py`; where configs come from: `io.py`, `ranges.py`."""

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
    option,
    option_names,
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
    "option",
    "option_names",
]
