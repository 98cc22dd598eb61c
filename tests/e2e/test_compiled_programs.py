"""What commands compile is counted, and kept: a second start compiles nothing."""

from collections import Counter

import pytest

MOST_OF_AN_EVALUATION = 14
"""Programs: the detector, maps, timesteps, some of a line each. More are a slower start."""
KEPT_BY_DEFAULT = {"JAX_COMPILATION_CACHE_DIR": ""}
"""The tests name a folder, as a user may; here nobody does."""


def programs(commands):
    """Function -> how many programs were compiled of it."""
    names = [path.name for path in (commands.folder / "cache").glob("compiled/*/*-cache")]
    return Counter(name.rsplit("-", 2)[0] for name in names)


@pytest.fixture(scope="module")
def image(commands, trained):
    """One of the test images, after a training without that folder."""
    return str(commands.drawn_test_images()[0])


def test_a_second_start_compiles_nothing(commands, image):
    assert not programs(commands)
    evaluate = ("eval", "--workdir", "run", "--no-speed", "--out", "first")
    commands.run(*evaluate, environment=KEPT_BY_DEFAULT)
    once = programs(commands)
    assert once["jit_predict_without_maps"] == 1  # the detector
    assert once.total() <= MOST_OF_AN_EVALUATION
    commands.run(*evaluate, environment=KEPT_BY_DEFAULT)
    assert programs(commands) == once
    (folder,) = (commands.folder / "cache" / "compiled").iterdir()
    assert folder.parent.stat().st_mode & 0o777 == folder.stat().st_mode & 0o777 == 0o700

    predict = ("predict", "--workdir", "run", "--input", image, "--out", "decided")
    commands.run(*predict, environment=KEPT_BY_DEFAULT)
    then = programs(commands)
    more = then - once
    assert more["jit_predict_without_maps"] == 1  # of one image; `eval` took eight
    assert more.total() <= 2
    commands.run(*predict, environment=KEPT_BY_DEFAULT)
    assert programs(commands) == then


def test_it_can_be_turned_off(commands, image):
    before = programs(commands)
    off = KEPT_BY_DEFAULT | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    predict = ("predict", "--workdir", "run", "--input", image, image, "--out", "off")
    commands.run(*predict, environment=off)
    assert programs(commands) == before
