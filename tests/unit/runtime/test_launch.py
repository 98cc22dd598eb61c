"""The launchers: sound shell, valid manifests, real options, and the right end after a preemption.

No cloud and no cluster: `gcloud`, `srun`, `scontrol` and the workers' Python are stand-ins that
record how they are called. A worker is a folder, and what is sent to it really runs there.
"""

import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import jax.numpy as jnp
import pytest
import yaml
from kubeflow_trainer_api import models

from invad_jax.config import Config, TrainConfig
from invad_jax.config import io as config_io
from invad_jax.io import files
from invad_jax.runtime.checkpoint import Checkpoints
from invad_jax.runtime.workdir import Workdir
from tests import emulators
from tests.commands import parsed

PROJECT = Path(__file__).resolve().parents[3]
LAUNCH = PROJECT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
MAINS = ("train_vae", "train", "eval")
LAST_STEP = 300


def run(command: list, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)), env={**os.environ, **environment}, cwd=PROJECT,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool]):
    end = time.monotonic() + 60  # seconds; it takes one
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)
    return path


# --- the files themselves


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_is_sound(script: Path):
    assert run(["bash", "-n", script]).returncode == 0
    checked = run([Path(sys.executable).with_name("shellcheck"), script])
    assert checked.returncode == 0, checked.stdout


def manifests() -> dict[str, dict]:
    documents = yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text())
    return {document["kind"]: document for document in documents}


def pod_and_job() -> tuple[dict, dict]:
    (replicated,) = manifests()["JobSet"]["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    return job["template"]["spec"], job


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("JobSet", models.JobsetV1alpha2JobSet),
        ("ServiceAccount", models.IoK8sApiCoreV1ServiceAccount),
    ],
)
def test_manifest_has_the_published_form(kind: str, model: type):
    """The models refuse wrong types and missing fields, and drop fields that they do not know."""
    document = manifests()[kind]
    assert model.from_dict(document).to_dict() == document


def test_manifest_is_consistent():
    pod, job = pod_and_job()
    (container,) = pod["containers"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, topology.split("x")))
    hosts = chips // container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == hosts
    assert job["completionMode"] == "Indexed"
    assert pod["serviceAccountName"] == manifests()["ServiceAccount"]["metadata"]["name"]
    assert all(e["value"].startswith("gs://BUCKET/") for e in container["env"])
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    # Values that JobSet's CRD and the Kubernetes API list, and that the models leave open:
    # kubernetes-sigs/jobset api/jobset/v1alpha2/jobset_types.go; batch/v1 PodFailurePolicyRule.
    (failure,) = manifests()["JobSet"]["spec"]["failurePolicy"]["rules"]
    assert failure["action"] == "FailJobSet"
    assert rule["action"] == "FailJob"
    assert failure["onJobFailureReasons"] == ["PodFailurePolicy"]
    # The published batch must split over the chips, with the mesh that the command asks for.
    config = config_io.override(config_io.load(PROJECT / "configs/mvtec_dit.py"), assignments())
    assert config.train.batch_size % chips == 0
    assert chips % config.mesh.fsdp == 0


def assignments() -> list[str]:
    script = pod_and_job()[0]["containers"][0]["args"][0]
    words = shlex.split(script.partition("&\n")[0])
    return [word for word in words if re.fullmatch(r"\w+\.\w+=\S+", word)]


# --- the options are those of our mains


def commands() -> list[tuple[str, list[str]]]:
    """Every command in the launchers: main, words after it."""
    text = "\n".join(path.read_text() for path in LAUNCH.iterdir() if path.is_file())
    start = rf"(?:invad_jax\.|\.sbatch |\.sh (?:run|all) )({'|'.join(MAINS)}) (.*)"
    return [(main, rest.split()) for main, rest in re.findall(start, text.replace("\\\n", " "))]


def test_options_exist():
    found = commands()
    assert {main for main, _ in found} >= {"train", "eval"}
    assert len(found) > 3  # the regular expression did not lose them
    for main, words in found:
        args = parsed(main, [word for word in words if word != "&"])
        config = config_io.load(PROJECT / args.config) if args.config else Config()
        config_io.override(config, args.set)


# --- finished, or stopped?


def finished(workdir: Path) -> tuple[int, str]:
    done = run([sys.executable, LAUNCH / "finished.py", workdir])
    return done.returncode, done.stdout.strip()


def test_finished_reads_a_real_workdir(tmp_path: Path):
    workdir = Workdir(tmp_path / "run")
    assert finished(workdir.path) == (1, "0")
    workdir.claim(Config(train=TrainConfig(num_steps=LAST_STEP)), write=True)
    arrays = {"params": jnp.ones(2), "ema_params": jnp.ones(2), "frozen": jnp.ones(2)}
    with Checkpoints(workdir.checkpoints, keep=2) as checkpoints:
        checkpoints.save_model(90, arrays, {})
        checkpoints.wait()
        assert finished(workdir.path) == (1, "90")
        checkpoints.save_model(LAST_STEP, arrays, {})
        checkpoints.wait()
        assert finished(workdir.path) == (0, str(LAST_STEP))


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_finished_reads_a_bucket(scheme: str):
    with (
        emulators.used(scheme),  # whose environment the script inherits
        closing(Workdir(f"{scheme}://{emulators.BUCKET}/run")) as workdir,
    ):
        assert finished(workdir.path) == (1, "0")
        workdir.claim(Config(train=TrainConfig(num_steps=LAST_STEP)), write=True)
        for step in (90, LAST_STEP):
            files.write_text(workdir.checkpoints / str(step) / "model" / "d" / "1", "an array")
        assert finished(workdir.path) == (1, "0")  # neither is committed
        files.write_text(workdir.checkpoints / "90" / "commit_success.txt", "")
        assert finished(workdir.path) == (1, "90")
        files.write_text(workdir.checkpoints / str(LAST_STEP) / "commit_success.txt", "")
        assert finished(workdir.path) == (0, str(LAST_STEP))


TRAINING = f"""
printf '%s\\n' "$(printf '%q ' "$@")" >>"$FAKE/mains"   # at once: two workers write to it
[ "$1" = -m ] || exec {shlex.quote(sys.executable)} "$@"   # launch/finished.py is the real one
if [ -n "${{WORKER:-}}" ]; then   # the processes of a pod wait for each other
  echo >>"$FAKE/joined$WORKER"
  [ "$WORKER" = 0 ] || exit 0
  until cmp -s "$FAKE/joined0" "$FAKE/joined1"; do sleep 0.01; done
fi
read -r verb number <"$FAKE/attempts"; sed -i 1d "$FAKE/attempts"
case $verb in
  save)
    mkdir -p "$SHARED/checkpoints/$number"
    echo '{{"train": {{"num_steps": {LAST_STEP}}}}}' >"$SHARED/config.json" ;;
  exit) exit "$number" ;;
  hang) exec sleep 20 ;;
  wait) echo up >"$FAKE/up"; until [ -e "$FAKE/go" ]; do sleep 0.02; done ;;
  hang_until_term) trap 'kill $!; exit 0' TERM; sleep 0.2; echo up >"$FAKE/up"; sleep 20 & wait ;;
esac
"""
"""A stand-in for the Python of a worker: takes one line of $FAKE/attempts a start."""


@pytest.fixture
def fake(tmp_path: Path) -> dict[str, str]:
    """Environment with stand-ins on the PATH, and the folders that they use."""
    executable(tmp_path / "bin/python", TRAINING)
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "FAKE": str(tmp_path),
        "SHARED": str(tmp_path / "shared run"),  # a space, so that quoting is seen
    }


def read(fake: dict[str, str], name: str) -> list[str]:
    path = Path(fake["FAKE"]) / name
    return path.read_text().splitlines() if path.is_file() else []


def attempts(fake: dict[str, str], *lines: str):
    (Path(fake["FAKE"]) / "attempts").write_text("".join(line + "\n" for line in lines))


def starts(fake: dict[str, str]) -> list[list[str]]:
    return [shlex.split(line) for line in read(fake, "mains") if line.startswith("-m")]


# --- GKE: the command of the pod


@pytest.mark.parametrize(
    ("attempt", "status"), [(f"save {LAST_STEP}", 0), ("save 90", 75), ("exit 2", 2)]
)
def test_pod_leaves_with_0_only_when_finished(fake: dict[str, str], attempt: str, status: int):
    container = pod_and_job()[0]["containers"][0]
    attempts(fake, attempt)
    done = run([*container["command"], *container["args"]], **fake, WORKDIR=fake["SHARED"])
    assert done.returncode == status, done.stderr
    ((_, module, *options),) = starts(fake)
    assert module == "invad_jax.train"
    assert "--distributed" in options
    assert options[options.index("--workdir") + 1] == fake["SHARED"]


def test_pod_passes_the_signal_on(fake: dict[str, str]):
    container = pod_and_job()[0]["containers"][0]
    attempts(fake, "hang_until_term")
    shell = subprocess.Popen(
        [*container["command"], *container["args"]], cwd=PROJECT,
        env={**os.environ, **fake, "WORKDIR": fake["SHARED"]},
    )  # fmt: skip
    wait_for((Path(fake["FAKE"]) / "up").exists)
    shell.terminate()  # to the shell alone, as Kubernetes does
    assert shell.wait(timeout=60) == 75


# --- SLURM


@pytest.mark.parametrize(
    ("main", "attempt", "state", "status", "queued"),
    [
        ("train", f"save {LAST_STEP}", "RUNNING", 0, False),
        ("train", "save 90", "RUNNING", 0, True),
        ("train", "save 90", "CANCELLED", 75, False),  # by its owner: stays so
        ("train", "exit 143", "RUNNING", 0, True),  # the signal came before the first step
        ("train", "exit 2", "RUNNING", 2, False),
        ("eval", "exit 0", "RUNNING", 0, False),
    ],
)
def test_sbatch_queues_again_what_was_stopped(
    fake: dict[str, str], main: str, attempt: str, state: str, status: int, queued: bool
):
    folder = Path(fake["FAKE"]) / "bin"
    executable(folder / "srun", 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"\n')
    executable(
        folder / "scontrol",
        f'echo "$*" >>"$FAKE/scontrol"; [ "$1" = requeue ] || echo "JobId=7 JobState={state} X=1"',
    )
    attempts(fake, attempt)
    options = ["--workdir", fake["SHARED"], "--set", "data.root=/a b"]
    done = run(
        ["bash", LAUNCH / "slurm.sbatch", main, *options],
        **fake, PYTHON="python", SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="8",
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert ("requeue 7" in read(fake, "scontrol")) == queued
    assert starts(fake) == [["-m", f"invad_jax.{main}", "--distributed", *options]]


# --- Cloud TPU

GCLOUD = """
shift 2 # compute tpus
verb=$2; shift 2
echo "$verb" >>"$FAKE/verbs"
for option in "$@"; do
  case $option in --worker=*) workers=${option#*=} ;; --command=*) command=${option#*=} ;; esac
done
[ "${workers:-}" != all ] || workers='0 1'
end() { for home in "$FAKE"/worker*; do kill -KILL -- -"$(cat "$home/run.pid")"; done; } 2>/dev/null
case $verb in
  describe) # one line of the states each time, the last one for ever
    line=$(head -n 1 "$FAKE/states")
    [ "$line" != SUSPENDING ] || while grep -q hang "$FAKE/attempts"; do sleep 0.01; done # it runs
    [ "$(wc -l <"$FAKE/states")" = 1 ] || sed -i 1d "$FAKE/states"
    [ "$line" != NOT_FOUND ] || { echo 'ERROR: NOT_FOUND: no such resource' >&2; exit 1; }
    [ "$line" != DENIED ] || { echo 'ERROR: PERMISSION_DENIED' >&2; exit 1; }
    echo "$line" ;;
  create)
    echo "$*" >>"$FAKE/create"; mkdir -p "$FAKE/worker0" "$FAKE/worker1"
    head -n 1 "$FAKE/lives" | tr ' ' '\\n' >"$FAKE/states"; sed -i 1d "$FAKE/lives" ;;
  delete) end; rm -rf "$FAKE"/worker*; echo NOT_FOUND >"$FAKE/states" ;;
  scp) for worker in $workers; do cp "$1" "$FAKE/worker$worker/${2#*:}"; done ;;
  ssh)
    status=0
    for worker in $workers; do
      (cd "$FAKE/worker$worker" && WORKER=$worker bash -c "$command") || status=$?
    done
    exit $status ;;
esac
"""


@pytest.fixture
def cloud(fake: dict[str, str]) -> dict[str, str]:
    folder = Path(fake["FAKE"])
    executable(folder / "bin/gcloud", GCLOUD)
    executable(
        folder / "bin/python3",
        'case "$*" in *"uv venv"*) mkdir -p venv/bin; cp "$FAKE/bin/python" venv/bin ;; esac',
    )
    (folder / "states").write_text("NOT_FOUND\n")
    return {**fake, "POLL": "0.02", "MOUNT": 'touch "$FAKE/mounted$WORKER"', "FLAGS": "--spot"}


def pod(cloud: dict[str, str], lives: list[str], *command: str) -> subprocess.CompletedProcess:
    """Runs tpu_pod.sh; each line of `lives` is what the states of one created slice will be."""
    (Path(cloud["FAKE"]) / "lives").write_text("".join(line + "\n" for line in lives))
    return run([LAUNCH / "tpu_pod.sh", *command], **cloud)


def test_pod_starts_again_after_a_preemption_until_finished(cloud: dict[str, str]):
    options = ["--workdir", cloud["SHARED"], "--set", "data.root=/a b"]
    attempts(cloud, "hang", "save 90", "exit 134", f"save {LAST_STEP}")
    lives = [
        "WAITING_FOR_RESOURCES PROVISIONING ACTIVE ACTIVE ACTIVE SUSPENDING SUSPENDED",
        "WAITING_FOR_RESOURCES ACTIVE",
    ]
    done = pod(cloud, lives, "all", "train", *options)
    assert done.returncode == 0, done.stderr
    assert "train is finished" in done.stderr
    verbs = [verb for verb in read(cloud, "verbs") if verb in ("create", "delete")]
    assert verbs == ["create", "delete", "create", "delete"]
    # Two workers; taken away, stopped, crashed, finished: four starts on each.
    assert starts(cloud) == [["-m", "invad_jax.train", "--distributed", *options]] * 8
    assert all("--spot" in line for line in read(cloud, "create"))
    assert Path(cloud["FAKE"], "mounted0").exists()
    assert Path(cloud["FAKE"], "mounted1").exists()


def test_pod_keeps_its_slice_when_the_command_is_wrong(cloud: dict[str, str]):
    attempts(cloud, "exit 2")
    done = pod(cloud, ["ACTIVE"], "run", "train", "--workdir", cloud["SHARED"])
    assert done.returncode == 1
    assert "refused its options" in done.stderr
    assert len(starts(cloud)) == 2  # once on each worker
    assert "delete" not in read(cloud, "verbs")


def test_pod_gives_up_without_progress_and_deletes(cloud: dict[str, str]):
    attempts(cloud, "save 90", *["exit 134"] * 5)
    done = pod(
        {**cloud, "MAX_FAILURES": "2"}, ["ACTIVE"], "all", "train", "--workdir", cloud["SHARED"]
    )
    assert done.returncode == 1
    assert len(starts(cloud)) == 2 * 3  # one that saved, then two in a row that did not
    assert read(cloud, "verbs")[-1] == "delete"


def test_pod_says_why_it_cannot_be_asked_and_does_not_wait_for_ever(cloud: dict[str, str]):
    (Path(cloud["FAKE"]) / "states").write_text("DENIED\n")
    done = pod(cloud, [], "all", "train", "--workdir", cloud["SHARED"])
    assert done.returncode == 3
    assert "ERROR: PERMISSION_DENIED" in done.stderr
    assert set(read(cloud, "verbs")) == {"describe"}


def test_another_command_is_not_taken_for_ones_own(cloud: dict[str, str]):
    """A training goes on where `run train` was interrupted: it is neither watched nor ended."""
    folder = Path(cloud["FAKE"])
    (folder / "lives").write_text("ACTIVE\n")
    attempts(cloud, "wait", "exit 1")
    script = LAUNCH / "tpu_pod.sh"
    options = ["--workdir", cloud["SHARED"]]
    train = [script, "run", "train", *options]
    with subprocess.Popen(train, env={**os.environ, **cloud}) as launcher:
        try:
            wait_for((folder / "up").exists)
        finally:
            launcher.kill()
    try:
        done = run([script, "all", "eval", *options], **cloud)
    finally:
        (folder / "go").touch()
    assert done.returncode == 3
    assert "another command runs there" in done.stderr
    assert [start[1] for start in starts(cloud)] == ["invad_jax.train"] * 2
    assert "delete" not in read(cloud, "verbs")


def test_run_watches_what_already_runs(cloud: dict[str, str]):
    """The launcher was interrupted: the run goes on, and is not started a second time."""
    folder = Path(cloud["FAKE"])
    (folder / "lives").write_text("ACTIVE\n")
    attempts(cloud, "wait", "exit 1")
    command = [LAUNCH / "tpu_pod.sh", "run", "eval", "--workdir", cloud["SHARED"]]
    environment = {**os.environ, **cloud}
    with subprocess.Popen(command, env=environment) as launcher:
        try:
            wait_for((folder / "up").exists)
        finally:
            launcher.kill()
    seen = len(read(cloud, "verbs"))
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            wait_for(lambda: len(read(cloud, "verbs")) > seen + 4)  # it has looked
        finally:
            (folder / "go").touch()
        _, log = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, log
    assert "eval is finished" in log
    assert len(starts(cloud)) == 2  # once on each worker


def test_usage_names_the_commands():
    done = run([LAUNCH / "tpu_pod.sh"])
    assert done.returncode == 2
    assert "tpu_pod.sh run MAIN OPTION" in done.stderr
    assert "MAX_FAILURES=3" in done.stderr
