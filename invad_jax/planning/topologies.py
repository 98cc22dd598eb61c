"""Devices of a TPU slice that is not here."""

from __future__ import annotations

import importlib.util
import os
import re

import jax
from jax.experimental import topologies

from invad_jax.errors import UserError
from invad_jax.planning.tpus import CHIPS, Chip

_LIBTPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # its lock guards a TPU; compiling opens none
    "TPU_SKIP_MDS_QUERY": "1",  # no questions to a cloud's metadata server
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
}
"""Environment of the compiler, where the user has not set it."""


def topology_devices(name: str) -> tuple[list[jax.Device], Chip | None]:
    """The devices of `v5e:4x4`, which cannot run but be compiled for, of two such slices,
    `2*v5e:4x4`, or of `cpu:8`.

    Raises:
      UserError: no libtpu, an unknown chip, or a shape that it does not come in.
    """
    several, _, one = name.rpartition("*")
    if several and not re.fullmatch(r"[2-9]|[1-9]\d+", several):
        raise UserError(f"--topology {name}: expected a number of slices, such as 2*v5e:4x4")
    kind, _, shape = one.partition(":")
    if kind == "cpu" and not several:
        devices = jax.devices("cpu")
        if not shape.isdigit() or not 1 <= int(shape) <= len(devices):
            raise UserError(f"--topology {name}: expected cpu:1 to cpu:{len(devices)}")
        return devices[: int(shape)], None
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise UserError(f"--topology {name}: expected {', '.join(CHIPS)} and a shape: v5e:4x4")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology {name}: needs the TPU compiler: pip install libtpu")
    for variable, value in _LIBTPU.items():
        os.environ.setdefault(variable, value)
    chip = CHIPS[kind]
    try:
        slices = {"num_slices": int(several)} if several else {}
        topology = topologies.get_topology_desc(one, "tpu", **chip.topology_options, **slices)
    except Exception as error:  # jaxlib raises errors of several types
        raise UserError(f"--topology {name}: {str(error).splitlines()[0]}") from error
    return list(topology.devices), chip
