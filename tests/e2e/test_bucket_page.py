"""`docs/pods.md`: a bucket from nothing to metrics, by the lines that stand there."""

import os
import shutil
import subprocess
import sys
from unittest import mock

import pytest

from invad_jax.data.samples import procedural_root
from invad_jax.io import files
from invad_jax.io.paths import to_path
from tests import emulators
from tests.commands import CONFIG, LAUNCHER, PROJECT, TINY_MLP
from tests.emulators import BUCKET

PYTHON = "#!" + sys.executable + "\n"
GCLOUD = f"""{PYTHON}
import sys
from pathlib import Path
from invad_jax.io import files
from invad_jax.io.paths import to_path
match sys.argv[1:]:
    case ["storage", "buckets", "create", *_]:
        pass
    case ["storage", "cp", "--recursive", *sources, target]:
        for source in map(Path, sources):
            files.upload_folder(source, to_path(target) / source.name)
    case ["storage", "cat", source]:
        print(files.read_bytes(source).decode())
    case words:
        sys.exit(f"gcloud {{words}}")
"""
SLICE = f"""#!/bin/bash -e
shift; main=$1; shift  # run MAIN OPTION...
for option; do
  shift
  case $option in
    configs/*) option={CONFIG} ;;
    data.root=*) small='data.name=mvtec train.num_steps=4 {" ".join(TINY_MLP)}' ;;
  esac
  set -- "$@" "$option"
done
processes=1
[ "$main" != predict ] || processes=2
exec {LAUNCHER} $processes -m invad_jax.$main "$@" $small
"""


def block() -> str:
    page = (PROJECT / "docs" / "pods.md").read_text()
    section = page.partition("## A bucket, from nothing to metrics")[2]
    text = section.partition("```sh\n")[2].partition("```")[0]
    return text.replace("BUCKET=my-bucket", f"BUCKET={BUCKET}")


@pytest.fixture(scope="module")
def walked(commands, tmp_path_factory):
    """What the lines printed, and the bucket after them."""
    folder = tmp_path_factory.mktemp("page")
    for name, text in {"gcloud": GCLOUD, "pip": "#!/bin/sh\n", "tpu_pod.sh": SLICE}.items():
        path = folder / ("launch" if name.endswith(".sh") else "bin") / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    with mock.patch.dict(os.environ, commands.environment):
        root = procedural_root()
    shutil.copytree(root, folder / "data" / "mvtec")
    shutil.copytree(root / "disc" / "test", folder / "parts")
    with emulators.used("gs") as environment:
        own = {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-e", "-c", block()],
            cwd=folder,
            env=commands.environment | environment | own,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        yield done.stdout, to_path(f"gs://{BUCKET}")


def test_metrics_come_out(walked):
    printed, _ = walked
    assert "i_auroc" in printed


def test_everything_is_in_the_bucket(walked):
    bucket = walked[1]
    found = [path.name for path in bucket.iterdir()]
    assert found == ["cache", "data", "decisions", "parts", "runs"]
    assert (bucket / "runs" / "mvtec" / "eval" / "report.html").is_file()
    rows = files.read_bytes(bucket / "decisions" / "predictions.csv").decode().splitlines()
    assert len(rows) == 1 + 25
    assert files.read_json(bucket / "decisions" / "summary.json")["images"] == 25
    assert not (bucket / "decisions" / "shards").exists()


def test_every_line_of_the_page_was_run():
    """The stand-ins know all that stands there: an unknown one would have ended it."""
    assert {line.split()[0] for line in block().replace("\\\n", " ").splitlines()} == {
        *("pip", "gcloud", "export", "launch/tpu_pod.sh")
    }
