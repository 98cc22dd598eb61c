"""The files of an evaluation: one for each sample, and none outside of the folder."""

import csv

import numpy as np

from invad_jax.data.dataset import Sample
from invad_jax.evaluation import results
from invad_jax.evaluation.evaluate import Evaluation
from invad_jax.evaluation.ground_truth import GroundTruth

CASES = [
    ("cam0/000.png", "nut", "bad"), ("cam1/000.png", "nut", "bad"), ("cam1/000.jpg", "nut", "bad"),
    ("a.png", "../..", "../../elsewhere"), ("b.png", "/etc", "x"), ("b.png", "-etc", "x"),
    ("c.png", "Nut", "Bad"), ("c.png", "nut", "bad"), ("d.png", "a\nb", ""),
    ("x" * 251 + ".png", "日" * 100, "y" * 300), ("", "", ""),
]  # fmt: skip


def evaluation_of(samples, maps):
    """With nothing known but the maps, (N, 2, 2)."""
    count = len(samples)
    extent = np.full((count, 2), 2)
    truth = GroundTruth(tuple(samples), np.zeros((count, 2, 2), bool), np.ones(count, bool), extent)
    return Evaluation(truth, maps, {}, np.zeros(count, int), {}, np.zeros(count))


def test_each_map_has_a_file_of_its_own_inside_the_folder(tmp_path):
    samples = [Sample(path, category, defect, 1) for path, category, defect in CASES]
    maps = np.arange(4 * len(CASES), dtype=np.float32).reshape(-1, 2, 2)
    out = tmp_path / "deep" / "out"
    results.write_maps(out, evaluation_of(samples, maps), image_size=2)
    with (out / "maps.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows] == [path for path, _, _ in CASES]
    for row, expected in zip(rows, maps, strict=True):
        np.testing.assert_array_equal(np.load(out / row["map"]), expected)
    written = {path.resolve() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(written) == len(CASES) + 1
    assert all(path.is_relative_to(out.resolve()) for path in written)


def test_a_page_shows_every_mistake_first_and_then_what_is_nearest_to_its_threshold():
    label = [1, 1, 1, 1, 0, 0, 0, 0]
    score = np.array([9.0, 1.0, 2.0, 3.5, 8.0, -7.0, 2.9, 0.0])
    samples = tuple(Sample(f"{i}.png", "nut", "", value) for i, value in enumerate(label))
    nothing = np.zeros((8, 2, 2))
    evaluation = evaluation_of(samples, nothing)
    evaluation = evaluation._replace(image_score={"calibrated": score}, threshold=np.full(8, 3.0))
    order, examples = results.pictured(evaluation, num_examples=2)
    assert order[:3] == [4, 1, 2]  # a false alarm by 5, missed by 2 and by 1
    assert examples == [4, 5]
    assert order[3:] == [5, 6, 3, 7, 0]  # the best example, then by distance
    assert results.pictured(evaluation, num_examples=0)[1] == []
