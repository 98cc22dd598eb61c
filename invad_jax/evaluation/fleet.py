"""New images scored by many processes, each alone with its devices: no one waits for another.

Process p of P does the shards p, p + P, p + 2P, ... that are not done yet, and the first puts them
together. What is killed loses the shard that each process was at; the same command goes on.

Read next: `shards.py`, the files; `records.py`, what becomes of one image.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from invad_jax.data.inputs import Found
from invad_jax.errors import UserError
from invad_jax.evaluation import new_images, records, shards
from invad_jax.evaluation.shards import Paths, Shards
from invad_jax.evaluation.tally import Tally
from invad_jax.inference.predictions import Prediction
from invad_jax.inference.predictor import Predictor
from invad_jax.io import files, names, outputs
from invad_jax.report.tables import PredictionStream
from invad_jax.runtime import processes
from invad_jax.runtime.log import log

SUMMARY, FOLDER = "summary.json", "shards"
BUSY = "another predict --distributed is at work there"


def predict(
    out: Path,
    key: Mapping[str, Any],
    sources: Iterable[str],
    predictor: Predictor,
    overlays: bool,
    sorting: records.Sorting | None,
) -> Tally:
    """Scores images on all processes of the job; the first writes one table and a summary of all.

    Args:
      out: a folder that all processes see.
      key: JSON that says whose work it is; its `format` is `csv` or `jsonl`.
      sources: files, folders, patterns; only the first process looks at them.
      predictor: on the devices of this process.
      overlays: whether each image gets one.
      sorting: None: images stay where they are.

    Returns:
      The tally of all images, on every process.

    Raises:
      UserError: there is no image, no image can be read, other work was begun in `out`, or it
        cannot be written.
    """
    folder, table, primary = out / FOLDER, new_images.TABLES[key["format"]], processes.is_primary()
    if primary:
        outputs.claim(out, "predict", (table, SUMMARY, FOLDER, records.OVERLAYS))
        if sorting:
            sorting.claim()
    with files.alone(folder, BUSY) if primary else nullcontext():
        if primary and not shards.is_begun(folder):
            (out / SUMMARY).unlink(missing_ok=True)
        job = shards.begin(folder, key, sources) if primary else shards.await_begun(folder, key)
        _score(job, predictor, out, overlays, sorting)
        if primary:
            job.wait()
            tally = job.merge(out / table)
            files.write_json(out / SUMMARY, {"images": tally.rows, **tally.content, "job": key})
            job.remove()
        else:
            tally = _await_summary(out / SUMMARY)
    processes.barrier("predicted")  # lest one that leaves with a status takes the others along
    if not tally.scored:
        path, error = tally.errors[0]
        raise UserError(f"{path}: {error}; none of {tally.rows} images could be read")
    return tally


def _score(
    job: Shards,
    predictor: Predictor,
    out: Path,
    overlays: bool,
    sorting: records.Sorting | None,
) -> None:
    """Does the shards of this process that are not finished."""
    this, count = jax.process_index(), jax.process_count()
    done = [job.finished(shard) for shard in range(job.count)]
    log.info("%d images in %d shards, %d of them done before", job.images, job.count, sum(done))
    mine = [shard for shard in range(job.count)[this::count] if not done[shard]]
    rows = np.concatenate([np.arange(0), *(np.asarray(job.rows(shard)) for shard in mine)])
    readable = job.readable(rows)
    answers = new_images.in_order(len(readable), predictor.predict_files(Paths(job, readable)))
    words = f"predict, 1 of {count} processes" if count > 1 else "predict"
    with tqdm(total=len(rows), desc=words, unit="image", disable=this != 0) as bar:
        for shard in mine:
            found = [job.found(row) for row in job.rows(shard)]
            with job.writing(shard) as (temporary, tally):
                recorder = records.Recorder(
                    PredictionStream(temporary, job.key["format"]),
                    predictor.model.config.data,
                    out if overlays else None,
                    sorting,
                    tally,
                )
                with closing(recorder):
                    _record(recorder, shard, found, answers, bar)


def _record(
    recorder: records.Recorder,
    shard: int,
    found: Sequence[Found],
    answers: Iterator[Prediction | None],
    bar: tqdm,
) -> None:
    """Writes the rows of a shard."""
    # below the number of the shard, so that no two processes have the same
    places = [f"{shard:06d}/{one.name}" for one in found]
    pictures = names.unique(places, ".png")
    if recorder.out:
        new_images.check_apart(recorder.out, [one.path for one in found], pictures)
    for one, place, picture in zip(found, places, pictures, strict=True):
        result = None if one.reason else next(answers)
        if result:
            recorder.add(one.path, place, picture, result)
        else:
            reason = one.reason or new_images.why_unreadable(one.path, recorder.data)
            recorder.fail(one.path, place, reason)
        bar.update()


def _await_summary(path: Path) -> Tally:
    while not path.exists():
        time.sleep(shards.POLL)
    tally = Tally()
    tally.extend(files.read_json(path))
    return tally
