"""A workdir in white coordinates, and the bundle of it, for several files."""

import pytest

from tests.commands import WHITE, training


@pytest.fixture(scope="session")
def said_of_white(commands):
    """What the training in white coordinates said, whose workdir is `white`."""
    return commands.here(*training(commands.folder / "white", *WHITE, "train.num_steps=0")).stderr


@pytest.fixture(scope="session")
def white(commands, said_of_white):
    """Two kinds of product in white coordinates: the way of our own configs."""
    run = commands.folder / "white"
    commands.here("eval", "--workdir", str(run), "--no-speed")
    return run


@pytest.fixture(scope="session")
def part(commands, white):
    path = commands.folder / "part.invad"
    said = commands.here("export", "--workdir", str(white), "--out", str(path)).stdout
    assert "decisions identical" in said
    return path


@pytest.fixture(scope="session")
def photographs(commands, part):
    """Of the test set, in their own size."""
    return commands.drawn_test_images()
