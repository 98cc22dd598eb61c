"""What there is, and the refusal of what needs more."""

from types import SimpleNamespace

import pytest

from invad_jax.config import Config, MeshConfig
from invad_jax.config.io import override
from invad_jax.errors import UserError
from invad_jax.runtime import memory
from invad_jax.runtime.sharding import make_mesh


@pytest.fixture
def device(monkeypatch):
    """One of 10 GB."""
    stats = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 10_000_000_000})
    monkeypatch.setattr(memory.jax, "local_devices", lambda: [stats])


def test_the_machine_has_no_more_than_it_was_built_with(monkeypatch, tmp_path):
    total = memory.os.sysconf("SC_PAGE_SIZE") * memory.os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory.host_bytes() <= total
    limit = tmp_path / "memory.max"
    limit.write_text("12345\n")
    monkeypatch.setattr(memory, "_CGROUP", limit)
    assert memory.host_bytes() == 12345
    limit.write_text("max\n")
    assert memory.host_bytes() > 12345


@pytest.mark.usefixtures("device")
def test_more_than_there_is_is_refused_with_its_parts():
    memory.require("a step", {"this": 4e9, "that": 6e9}, "x")
    with pytest.raises(UserError) as caught:
        memory.require("a step", {"this": 4e9, "that": 7e9}, "x")
    assert str(caught.value) == (
        "a step needs about 11 GB on each device (this 4, that 7), and 10 GB are free; lower x"
    )


@pytest.mark.usefixtures("device")
def test_a_batch_of_images_is_split_over_devices():
    mesh = make_mesh(MeshConfig())
    one = int(10e9 / memory.BYTES_A_PIXEL / 256**2)  # images that one device holds
    fits = override(Config(), [f"eval.batch_size={one * mesh.size}"])
    memory.require_for_images(fits, mesh)
    too_many = override(Config(), [f"eval.batch_size={one * mesh.size + 1}"])
    with pytest.raises(UserError, match=rf"eval\.batch_size={one * mesh.size + 1} with data"):
        memory.require_for_images(too_many, mesh)
