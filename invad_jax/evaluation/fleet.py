"""New images scored by many processes, each alone with its devices: no one waits for another.

Process p of P does the shards p, p + P, p + 2P, ... that are not done yet, and the first puts them
together. What is killed loses the shard that each process was at; the same command goes on.

Read next: `shards.py`, the files; `records.py`, what becomes of one image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from invad_jax.errors import UnavailableError, UserError
from invad_jax.evaluation import new_images, records, shards
from invad_jax.evaluation.records import Drawn, Item
from invad_jax.evaluation.shards import Paths, Shards
from invad_jax.evaluation.tally import Tally
from invad_jax.inference.predictor import Predictor
from invad_jax.io import files, names, outputs
from invad_jax.report.tables import PredictionStream
from invad_jax.runtime import locks, processes
from invad_jax.runtime.log import log

SUMMARY, FOLDER = "summary.json", "shards"
BUSY = "another predict --distributed is at work there"


def predict(
    out: Path,
    key: Mapping[str, Any],
    sources: Iterable[str],
    predictor: Predictor,
    drawer: records.Drawer,
    sorting: records.Sorting | None,
) -> Tally:
    """Scores images on all processes of the job; the first writes one table and a summary of all.

    Args:
      out: a folder that all processes see.
      key: JSON that says whose work it is; its `format` is `csv` or `jsonl`.
      sources: files, folders, patterns; only the first process looks at them.
      predictor: on the devices of this process.
      drawer: whose overlays, if there are some, lie in `out`.
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
    with locks.alone(folder, BUSY) if primary else nullcontext():
        if primary and not shards.is_begun(folder):
            (out / SUMMARY).unlink(missing_ok=True)
        job = shards.begin(folder, key, sources) if primary else shards.await_begun(folder, key)
        _score(job, predictor, drawer, sorting)
        if primary:
            job.wait()
            tally = job.merge(out / table)
            files.write_json(out / SUMMARY, {"images": tally.rows, **tally.content, "job": key})
        else:
            tally = _await_summary(out / SUMMARY)
        # Nobody looks for the job any more, and none that leaves with a status takes others along.
        processes.barrier("predicted")
        if primary:
            _tidy(job)
    if not tally.scored:
        path, error = tally.errors[0]
        raise UserError(f"{path}: {error}; none of {tally.rows} images could be read")
    return tally


def _score(
    job: Shards, predictor: Predictor, drawer: records.Drawer, sorting: records.Sorting | None
) -> None:
    """Does the shards of this process that are not finished."""
    this, count = jax.process_index(), jax.process_count()
    done = job.finished()
    log.info("%d images in %d shards, %d of them done before", job.images, job.count, len(done))
    mine = [shard for shard in range(job.count)[this::count] if shard not in done]
    rows = np.concatenate([np.arange(0), *(np.asarray(job.rows(shard)) for shard in mine)])
    drawn = _drawn(job, mine, rows, predictor, drawer)
    words = f"predict, 1 of {count} processes" if count > 1 else "predict"
    with tqdm(total=len(rows), desc=words, unit="image", disable=this != 0) as bar:
        for shard in mine:
            with job.writing(shard) as (temporary, tally):
                stream = PredictionStream(temporary, job.key["format"])
                with closing(records.Recorder(stream, sorting, tally)) as recorder:
                    for one in itertools.islice(drawn, len(job.rows(shard))):
                        recorder.write(one)
                        bar.update()


def _drawn(
    job: Shards, mine: Sequence[int], rows: np.ndarray, predictor: Predictor, drawer: records.Drawer
) -> Iterator[Drawn]:
    """Of each of the rows in turn; drawn together are those of a batch, as far as it goes."""
    readable = job.readable(rows)
    places = itertools.chain.from_iterable(_items(job, shard, drawer.out) for shard in mine)
    # The batch size of the whole job: the same programs, however its shards are divided.
    batches = predictor.predict_files(Paths(job, rows[readable]), of=job.images)
    for answers in new_images.in_order(len(rows), ((readable[ids], some) for ids, some in batches)):
        some = itertools.islice(places, len(answers))
        items = [item._replace(result=one) for item, one in zip(some, answers, strict=True)]
        yield from drawer.draw(items)


def _items(job: Shards, shard: int, out: Path | None) -> list[Item]:
    """The images of a shard, below its number: so no two processes have the same names."""
    found = [job.found(row) for row in job.rows(shard)]
    places = [f"{shard:06d}/{one.name}" for one in found]
    overlays = names.unique(places, records.PICTURE)
    if out:
        new_images.check_apart(out, [one.path for one in found], overlays)
    return [
        Item(one.path, place, overlay, None, one.reason)
        for one, place, overlay in zip(found, places, overlays, strict=True)
    ]


def _tidy(job: Shards) -> None:
    """The results are written: what cannot be deleted now is no reason to make them again."""
    try:
        job.remove()
    except UnavailableError as error:
        log.warning("%s: not deleted; the results are whole (%s)", job.folder, error)


def _await_summary(path: Path) -> Tally:
    while not path.exists():
        shards.pause(path)
    tally = Tally()
    tally.extend(files.read_json(path))
    return tally
