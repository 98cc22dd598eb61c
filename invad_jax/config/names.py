"""Options by their names, `section.option`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from invad_jax.config.options import Config


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
