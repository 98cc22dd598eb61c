"""Others are silent while we ask them, and speak again afterwards."""

import logging

from invad_jax.runtime import log


def test_quiet_is_for_a_while(caplog):
    others = logging.getLogger("absl")
    before = others.level
    with log.quiet():
        others.warning("within")
    assert others.level == before
    others.error("after")
    assert "within" not in caplog.text
