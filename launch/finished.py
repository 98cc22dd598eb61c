"""Whether a training reached its last step: exit status 0 if it did, 1 if not.

    python launch/finished.py WORKDIR

`train` leaves with status 0 when it is finished and also when it was asked to stop (preemption), so
that nobody is alarmed; a launcher asks here which of the two it was. Prints the newest step. A
wrong "no", say from a file system that shows a folder late, costs one more start that ends at once.
Standard library only: it must not touch a device.
"""

import json
import sys
from pathlib import Path


def newest_step(workdir: Path) -> int:
    """The newest whole checkpoint, 0 if there is none; orbax commits one by renaming its folder."""
    steps = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdecimal()]
    return max(steps, default=0)


def last_step(workdir: Path) -> int | None:
    """`train.num_steps` of the run, or None before it wrote its config."""
    try:
        return json.loads((workdir / "config.json").read_text())["train"]["num_steps"]
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    step = newest_step(Path(sys.argv[1]))
    print(step)
    sys.exit(0 if step == last_step(Path(sys.argv[1])) else 1)
