"""Which options a config reads. One that is set and not read is refused, not ignored.

Read next: `options.py`, where an option says under which others it is read.
"""

from __future__ import annotations

from collections.abc import Iterable

from invad_jax.config.names import metadata, option, option_names, option_text
from invad_jax.config.options import Config
from invad_jax.errors import UserError


def holds(config: Config, where: str) -> bool:
    """Whether a config is as `where` says; nothing said holds always.

    >>> holds(Config(), "denoiser.name=unet or denoiser.name=dit|mlp and train.num_steps!=0")
    True
    """
    return not where or any(
        all(_agrees(config, part) for part in parts.split(" and ")) for parts in where.split(" or ")
    )


def _agrees(config: Config, part: str) -> bool:
    name, values = part.split("=")
    among = option_text(config, name.removesuffix("!")) in values.split("|")
    return among != name.endswith("!")


def is_read(config: Config, name: str) -> bool:
    """Whether `section.option` has an effect."""
    return holds(config, metadata(name).get("where", ""))


def refuse_unread(config: Config, names: Iterable[str] | None = None) -> None:
    """Checks options that somebody has set.

    Args:
      config: the whole.
      names: the options; None: all.

    Raises:
      UserError: one is not at its default, and is not read.
    """
    for name in option_names() if names is None else names:
        if option(config, name) != option(Config(), name) and not is_read(config, name):
            raise UserError(
                f"{name}={option_text(config, name)[:40]}: would have no effect; it is read where "
                f"{metadata(name)['where']}"
            )
