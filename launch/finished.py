"""Whether a training reached its last step: exit status 0 if it did, 1 if not.

    python launch/finished.py WORKDIR

`train` leaves with status 0 when it is finished and also when it was asked to stop (preemption), so
that nobody is alarmed; a launcher asks here which of the two it was. Prints the newest step. A
wrong "no", say from a file system that shows a folder late, costs one more start that ends at once.
It must not touch a device, so it uses the standard library; for a workdir in a bucket also what
reads one.
"""

import json
import sys
from pathlib import Path


def opened(workdir: str) -> Path:
    """The path of a workdir, here or in a bucket."""
    if "://" not in workdir:
        return Path(workdir)
    from invad_jax.io.paths import to_path

    return to_path(workdir)


def newest_step(workdir: Path) -> int:
    """The newest whole checkpoint, 0 if there is none.

    Orbax commits one by renaming its folder, and in a bucket by an object that it writes last.
    """
    steps = [path for path in workdir.glob("checkpoints/*") if path.name.isdecimal()]
    if not isinstance(workdir, Path):
        steps = [path for path in steps if (path / "commit_success.txt").is_file()]
    return max((int(path.name) for path in steps), default=0)


def last_step(workdir: Path) -> int | None:
    """`train.num_steps` of the run, or None before it wrote its config."""
    try:
        return json.loads((workdir / "config.json").read_text())["train"]["num_steps"]
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    workdir = opened(sys.argv[1])
    step = newest_step(workdir)
    print(step)
    sys.exit(0 if step == last_step(workdir) else 1)
