"""`predict --distributed` by the million: its memory over the number of images, its speed.

    python docs/studies/fleet.py memory runs/fleet --images 1000 10000 100000
    python docs/studies/fleet.py speed runs/fleet --images 64
    python docs/studies/fleet.py ranges gs://BUCKET/fleet --images 256

The first two make below the folder what they need: a detector on the generated data set, images.
`memory` starts the command anew for each number of images, as one process with a tiny detector, and
asks the system for the most memory that it held. `speed` scores the same photographs of 512 pixels
in turn: the compiled detector alone on a batch that lies on the device, the command's own function
without overlays, and with them. A ratio is of two measurements that followed each other; that of
CPU time does not hang on who else is on the machine.
`ranges` writes latents into a bucket, as shards, and reads each of them once an epoch in random
order, sixteen at a time: by a request for its range each, or from copies that are made first.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import fsspec
import jax
import numpy as np
from PIL import Image

from invad_jax import train
from invad_jax.benchmarks.whole import write_images
from invad_jax.evaluation import fleet, records
from invad_jax.inference import latent_cache
from invad_jax.inference.predictor import Predictor, load
from invad_jax.io.paths import to_path
from invad_jax.report.tables import markdown_table

CONFIG = str(Path(__file__).parents[2] / "configs" / "procedural.py")
TINY = (
    *("data.image_size=32", "encoder.stages=0", "encoder.pool=4", "denoiser.name=mlp"),
    *("denoiser.width=64", "denoiser.depth=1", "train.num_steps=20", "train.warmup_steps=2"),
)
LARGE = (
    *("data.image_size=256", "encoder.stages=0,2,4,10", "denoiser.width=384", "denoiser.depth=6"),
    *("denoiser.num_heads=6", "train.num_steps=2", "train.warmup_steps=1", "train.batch_size=4"),
    "eval.batch_size=8",
)
"""The sizes of the Lite0 table in docs/performance.md."""
IN_A_FOLDER = 1000
LATENT = (16, 16, 64)
READERS = 16
EPOCHS = (1, 3)
COLUMNS = (
    *("", "images/s", "of the detector's", "in single turns"),
    *("CPU ms an image", "of the detector's"),
)
WITH_PEAK = """
import re, sys
from invad_jax.predict import cli
status = cli()
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
sys.exit(status)
"""
"""The command, and the most memory that its pages ever took, as Linux counts it."""


def trained(workdir: Path, options: tuple[str, ...]) -> Path:
    """A detector of these sizes; what it has learnt does not matter here."""
    if not (workdir / "config.json").is_file():
        given = ["--config", CONFIG, "--workdir", str(workdir), "--set", *options]
        assert train.cli(given) == 0
    return workdir


def small_images(folder: Path, count: int) -> None:
    """PNG files of 16 x 16 pixels, a thousand in a folder; 64 of them differ."""
    rng, contents = np.random.default_rng(0), []
    for _ in range(64):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(stream, "PNG")
        contents.append(stream.getvalue())
    for i in range(count):
        below = folder / f"{i // IN_A_FOLDER:05d}"
        if i % IN_A_FOLDER == 0:
            below.mkdir(parents=True, exist_ok=True)
        (below / f"{i:08d}.png").write_bytes(contents[i % len(contents)])


def peak_megabytes(arguments: list[str]) -> tuple[float, float]:
    """The most resident memory of `invad_jax.predict --distributed` as one process, and seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    alone = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_COORDINATOR_BIND_ADDRESS": address,
        "JAX_NUM_PROCESSES": "1",
        "JAX_PROCESS_ID": "0",
    }
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", WITH_PEAK, *arguments, "--distributed"],
        env=os.environ | alone,
        stdout=subprocess.PIPE,
        check=True,
    )
    return int(done.stdout) / 1024, time.perf_counter() - begun


def memory(folder: Path, counts: list[int]) -> list[str]:
    """A table: images, peak memory, images a second."""
    workdir, rows = trained(folder / "tiny", TINY), []
    for count in counts:
        images, out = folder / f"images_{count}", folder / f"out_{count}"
        small_images(images, count)
        given = ["--workdir", str(workdir), "--input", str(images), "--out", str(out)]
        peak, seconds = peak_megabytes([*given, "--no-overlays"])
        with (out / "predictions.csv").open("rb") as stream:
            assert sum(1 for _ in stream) == count + 1
        rows.append([f"{count:,}", f"{peak:.0f}", f"{count / seconds:.0f}"])
        shutil.rmtree(images)
    return markdown_table(("images", "peak MB", "images/s, start included"), rows, numbers=3)


def ways(
    predictor: Predictor, images: Path, count: int, folder: Path
) -> dict[str, Callable[[], object]]:
    """What is timed, of `count` images each."""
    model = predictor.model
    side, batches = model.config.data.image_size, -(-count // model.batch_size)
    pixels = np.random.default_rng(0).integers(0, 256, (model.batch_size, side, side, 3), np.uint8)
    batch = jax.device_put(pixels)

    def bare() -> None:
        for _ in range(batches):
            jax.block_until_ready(predictor.trained.predict_batch(batch))

    def whole(overlays: bool) -> Callable[[], object]:
        out = folder / f"out_{overlays}"

        def run() -> None:
            with closing(records.Drawer(model.config.data, out if overlays else None)) as drawer:
                fleet.predict(out, {"format": "csv"}, [str(images)], predictor, drawer, None)

        return run

    return {"detector alone": bare, "predict": whole(False), "with overlays": whole(True)}


def speed(folder: Path, count: int, repeats: int) -> list[str]:
    """A table: images a second, and what share of the detector's that is."""
    predictor, images = load(trained(folder / "large", LARGE)), folder / "photographs"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    write_images(images, count)
    timed = ways(predictor, images, count, folder)
    for run in timed.values():
        run()
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, run in timed.items():
            begun = time.perf_counter(), time.process_time()
            run()
            ended = time.perf_counter(), time.process_time()
            turns[name].append(((ended[0] - begun[0]) / count, (ended[1] - begun[1]) / count))
    rows, alone = [], np.array(turns["detector alone"])
    for name, values in turns.items():
        seconds, cpu = np.median(values, axis=0)
        shares, cpu_shares = (alone / values).T
        spread = f"{min(shares):.3f} to {max(shares):.3f}"
        rows.append(
            [
                *(name, f"{1 / seconds:.2f}", f"{np.median(shares):.3f}", spread),
                *(f"{1000 * cpu:.1f}", f"{np.median(cpu_shares):.3f}"),
            ]
        )
    return markdown_table(COLUMNS, rows, numbers=5)


def epochs_of(read: Callable[[int], object], count: int, begun: float) -> list[float]:
    """Seconds from the begin to the end of the epochs `EPOCHS`."""
    rng, seconds = np.random.default_rng(0), []
    with ThreadPoolExecutor(READERS) as readers:
        for epoch in range(1, EPOCHS[-1] + 1):
            list(readers.map(read, rng.permutation(count).tolist()))
            if epoch in EPOCHS:
                seconds.append(time.perf_counter() - begun)
    return seconds


def by_ranges(shards: list[Path], count: int) -> list[float]:
    """A request for each row; as a range, the part of the shards that it takes on the average."""
    store, size = fsspec.filesystem("gs"), shards[0].size()
    rows = len(latent_cache.shards(count)[0])

    def read(row: int) -> None:
        shard, place = divmod(row, rows)
        start = place * size // rows
        store.cat_file(str(shards[shard]), start=start, end=start + size // rows)

    return epochs_of(read, count, time.perf_counter())


def by_copies(entry: Path, count: int) -> list[float]:
    """As training does: the shards are copied, and read from there."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["INVAD_CACHE"] = cache
        begun = time.perf_counter()
        latents = latent_cache.Latents(entry, (count, *LATENT))
        return epochs_of(latents.__getitem__, count, begun)


def ranges(folder: Path, count: int, repeats: int) -> list[str]:
    """A table: how latents are read, seconds for the epochs."""
    row = np.random.default_rng(0).standard_normal(LATENT).astype(np.float32)
    entry = folder / f"latents_{count}"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["INVAD_CACHE"] = cache
        shape = (count, *LATENT)
        latent_cache.cached(entry, shape, lambda rows: (row for _ in rows), 0, 1, lambda: None)
    shards = list(entry.iterdir())
    found: dict[str, list[list[float]]] = {"ranges": [], "copies": []}
    for _ in range(repeats):
        found["ranges"].append(by_ranges(shards, count))
        found["copies"].append(by_copies(entry, count))
    medians = {name: np.median(values, axis=0) for name, values in found.items()}
    rows = [[name, *(f"{s:.2f}" for s in medians[name])] for name in medians]
    rows.append(["ratio", *(f"{r:.1f}" for r in medians["ranges"] / medians["copies"])])
    names = ("", *(f"{n} epoch{'s' * (n > 1)}, s" for n in EPOCHS))
    return markdown_table(names, rows, numbers=len(EPOCHS))


def main() -> None:
    """One of the three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("memory", "speed", "ranges"))
    parser.add_argument("folder", type=to_path)
    parser.add_argument("--images", type=int, nargs="+", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.what == "memory":
        lines = memory(args.folder, args.images)
    else:
        lines = {"speed": speed, "ranges": ranges}[args.what](
            args.folder, args.images[0], args.repeats
        )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
