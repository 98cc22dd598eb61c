"""The predict command around a detector that takes a millisecond: files in, files out."""

import csv
import io
import json
import os
import shutil
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from invad_jax import predict
from invad_jax.config import TERMS, Config, DataConfig
from invad_jax.data import preprocess
from invad_jax.errors import UnavailableError, UserError
from invad_jax.evaluation import new_images, records
from invad_jax.inference import predictor
from invad_jax.inference.predictions import Predictions
from invad_jax.io import files
from invad_jax.normality import calibration, calibrations
from invad_jax.runtime import processes
from invad_jax.runtime.workdir import Workdir

SMALL = DataConfig(image_size=8)


class BrightnessPredictor:
    """Scores an image by its brightness: above 100 it is anomalous."""

    fitted = calibration.Calibration(
        terms=(calibration.Term("map_top", 0.0, 1.0),), threshold=100.0, false_positive_rate=0.1,
        guaranteed_false_positive_rate=0.1, num_normals=9, left_out=0,
        heat=(50.0, 200.0), held_out=True,
    )  # fmt: skip
    calibrations = calibrations.Calibrations(("part",), (fitted,))
    normal_scores = {"part": np.arange(60.0, 90.0)}  # noqa: RUF012, read only
    stop_at: int | None = None
    asked: tuple[int, int | None] = (0, None)
    """How many files it was given, of how many."""
    threshold = 100.0

    def __init__(self, workdir, config, devices=None):
        self.model = SimpleNamespace(
            config=config, batch_size=2, batch_size_for=lambda n: n, step=7
        )

    def decide_at(self, threshold):
        self.threshold = threshold
        return self

    def predict_files(self, paths, of=None):
        BrightnessPredictor.asked = len(paths), of
        for i, path in enumerate(paths):
            if i == self.stop_at:
                raise KeyboardInterrupt
            try:
                image = preprocess.read_image(path, SMALL)
            except UserError:
                continue
            yield np.array([i]), self.predict_squares([path], image[None])

    def predict_squares(self, paths, image):
        assert len(image) <= self.model.batch_size
        score = image.mean(axis=(1, 2, 3), dtype=np.float64)
        count = len(score)
        return Predictions(
            path=tuple(paths), image_score=score, decision=score > self.threshold,
            threshold=np.full(count, self.threshold), heat=np.tile([50.0, 200.0], (count, 1)),
            normal_percentile=score, component=("part",) * count,
            latent_norm=np.tile(score[:, None, None], (1, 2, 2)).astype(np.float32),
            extent=np.full((count, 2), 8), image_size=8, **dict.fromkeys(TERMS, score),
        )  # fmt: skip


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    monkeypatch.setattr(predictor, "of_workdir", BrightnessPredictor)
    monkeypatch.setattr(BrightnessPredictor, "stop_at", None)
    monkeypatch.setattr(Workdir, "resolve", lambda *_: Config())


@pytest.fixture
def photos(tmp_path):
    """Three images: black, grey, white."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, level in enumerate((10, 90, 200)):
        Image.new("RGB", (40, 30), (level,) * 3).save(folder / f"{i}.png")
    return folder


def run(photos, out, *more, status=0):
    arguments = ["--workdir", "w", "--input", str(photos), "--out", str(out), *more]
    assert predict.cli(arguments) == status


def away(*_):
    raise UnavailableError("gs://b: does not answer")


def table(out):
    with (out / "predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def size(path):
    with Image.open(path) as image:
        return image.size


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_row_a_page_and_an_overlay(photos, tmp_path):
    run(photos, tmp_path / "out")
    rows = table(tmp_path / "out")
    assert list(rows[0]) == [
        "path", "image_score", "threshold", "decision", "component", "normal_percentile",
        "regions", "left", "top", "width", "height", "area", "peak", "overlay", "error",
    ]  # fmt: skip
    assert [row["decision"] for row in rows] == ["normal", "normal", "anomalous"]
    assert [float(row["image_score"]) for row in rows] == [10, 90, 200]
    for i, row in enumerate(rows):
        assert row["overlay"] == f"overlays/{i}.jpg"
        assert size(tmp_path / "out" / row["overlay"]) == (40, 30)
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<b data-total="anomalous">1</b><small>of 3 images' in page
    assert '"normals":[60.0,61.0,' in page


def test_rows_do_not_hang_on_the_bar(photos, tmp_path, monkeypatch):
    """Of which `TQDM_DISABLE=1` makes none."""
    monkeypatch.setattr(new_images, "tqdm", partial(tqdm, disable=True))
    monkeypatch.setattr(new_images, "_TOGETHER", 1)
    run(photos, tmp_path / "out")
    rows = table(tmp_path / "out")
    assert [(row["path"], float(row["image_score"])) for row in rows] == [
        (str(photos / f"{i}.png"), level) for i, level in enumerate((10, 90, 200))
    ]


@pytest.mark.parametrize("place", [".", "decisions", "..", "overlays"])
def test_no_image_is_replaced_and_no_overlay_is_scored(photos, place):
    """`--out` is the folder of the images, lies in it, or holds it; twice, as a user would."""
    Image.new("RGB", (8, 8)).save(photos / "3.jpg")
    before = contents(photos)
    for _ in range(2):
        run(photos, photos / place)
        assert len(table(photos / place)) == 4
    after = contents(photos)
    assert {path: after[path] for path in before} == before


def test_a_table_of_somebody_else_is_not_replaced(photos, capsys):
    (photos / "predictions.csv").write_text("mine")
    run(photos, photos, status=2)
    assert "predictions.csv is there already" in capsys.readouterr().err
    assert (photos / "predictions.csv").read_text() == "mine"


def test_overlays_that_are_linked_to_the_images_are_refused(photos, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(photos / "3.jpg")
    run(photos, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "overlays")
    (tmp_path / "out" / "overlays").symlink_to(photos)
    before = contents(photos)
    run(photos, tmp_path / "out", status=2)
    assert "is an image of --input" in capsys.readouterr().err
    assert contents(photos) == before


def test_images_of_one_stem_have_an_overlay_each(photos, tmp_path):
    for name in ("0.jpg", "0.jpg.png", "0.TIF", "x" * 250 + ".jpeg", "x" * 250 + ".jpg"):
        Image.new("RGB", (8, 8)).save(photos / name)
    run(photos, tmp_path / "out")
    rows = table(tmp_path / "out")
    assert len({row["overlay"] for row in rows}) == len(rows) == 8
    assert all((tmp_path / "out" / row["overlay"]).is_file() for row in rows)


def test_an_unreadable_image_loses_no_other(photos, tmp_path, capsys):
    (photos / "0a.png").write_bytes(b"\x89PNG not really")
    (photos / "3.jpg").symlink_to("nowhere")
    run(photos, tmp_path / "out", "--strict", status=1)
    run(photos, tmp_path / "out", status=1)
    rows = table(tmp_path / "out")
    assert [row["decision"] for row in rows] == [
        "normal", "unreadable", "normal", "anomalous", "unreadable",
    ]  # fmt: skip
    assert rows[1]["error"] == "cannot be read as image: of no known image format"
    assert rows[1]["image_score"] == rows[1]["overlay"] == ""
    assert rows[4]["error"] == "a link that leads nowhere"
    assert "2 of 5 images with an error" in capsys.readouterr().err
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What could not be read" in page
    assert "unreadable</dt><dd><b>2</b>" in page


def test_where_none_can_be_read_one_line_says_so(photos, tmp_path, capsys):
    for path in photos.iterdir():
        path.write_bytes(b"no image")
    run(photos, tmp_path / "out", status=2)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert "0.png: cannot be read as image" in line
    assert "none of 3 images could be read" in line
    assert [row["decision"] for row in table(tmp_path / "out")] == ["unreadable"] * 3


def test_a_picture_that_cannot_be_written_loses_no_score(photos, tmp_path, monkeypatch):
    def full(path, *_):
        raise UserError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(records, "write_overlay", full)
    run(photos, tmp_path / "out")
    run(photos, tmp_path / "out", "--strict", status=1)
    rows = table(tmp_path / "out")
    assert [row["decision"] for row in rows] == ["normal", "normal", "anomalous"]
    assert all("no overlay: " in row["error"] for row in rows)


@pytest.mark.parametrize(
    ("room", "asked"),
    [(preprocess, "original"), (preprocess, "size_of"), (records, "open_binary")],
)
@pytest.mark.parametrize("how", [[], ["--distributed"]])
@pytest.mark.usefixtures("joined")
def test_a_store_that_is_away_is_the_fault_of_no_image(
    photos, tmp_path, monkeypatch, capsys, room, asked, how
):
    """Neither of its overlay, nor of its regions, nor of its place among the sorted."""
    monkeypatch.setattr(room, asked, away)
    given = ("--sort-into", str(tmp_path / "sorted"), *how)
    run(photos, tmp_path / "out", *given, status=UnavailableError.STATUS)
    assert capsys.readouterr().err.splitlines()[-1] == "error: gs://b: does not answer"
    tables = list((tmp_path / "out").rglob("*.csv"))
    assert all("does not answer" not in path.read_text() for path in tables)
    assert not list(tmp_path.rglob("000000.csv"))  # no shard counts as done


def test_a_store_that_is_away_ends_a_stream(photos, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos}/2.png\n"))
    monkeypatch.setattr(preprocess, "read_image", away)
    status = predict.cli(["--workdir", "w", "--input", "-", "--out", "-"])
    assert status == UnavailableError.STATUS
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == "error: gs://b: does not answer"


def test_a_page_that_fails_loses_no_table(photos, tmp_path, monkeypatch):
    def full(*_, **__):
        raise UserError("report.html: cannot be written")

    monkeypatch.setattr(new_images.page, "write_html", full)
    run(photos, tmp_path / "out", status=2)
    assert len(table(tmp_path / "out")) == 3


def test_without_overlays(photos, tmp_path):
    run(photos, tmp_path / "out", "--no-overlays")
    assert not (tmp_path / "out" / "overlays").exists()
    assert {row["overlay"] for row in table(tmp_path / "out")} == {""}
    assert (tmp_path / "out" / "report.html").is_file()


def test_several_inputs_each_once(photos, tmp_path):
    paths = [str(photos / f"{i}.png") for i in (2, 0)]
    run(paths[0], tmp_path / "out", "--input", paths[1], str(photos))
    assert [row["path"] for row in table(tmp_path / "out")] == [*paths, str(photos / "1.png")]


@pytest.mark.parametrize(
    "name", ["two\nlines.png", "a\rb.png", "a\u2028b.png", '=cmd,"q".png', "-x.png", "日本.png"]
)
def test_any_name_is_read_back_from_the_table(photos, tmp_path, name):
    shutil.copy(photos / "2.png", photos / name)
    (photos / f"bad {name}").write_bytes(b"x")
    run(photos, tmp_path / "out", status=1)
    rows = {row["path"]: row for row in table(tmp_path / "out")}
    assert set(rows) == {str(path) for path in photos.iterdir()}
    assert (tmp_path / "out" / rows[str(photos / name)]["overlay"]).is_file()
    assert rows[str(photos / f"bad {name}")]["decision"] == "unreadable"


def test_an_error_is_one_line_whatever_the_name(photos, tmp_path, capsys):
    run(photos / "two\nlines", tmp_path / "out", status=2)
    assert capsys.readouterr().err == (
        f"error: --input {photos}/two lines: no such file or folder\n"
    )


def test_overlays_of_large_images_are_reduced(photos, tmp_path):
    Image.new("RGB", (4000, 1000)).save(photos / "large.jpg")
    run(photos / "large.jpg", tmp_path / "out")
    assert size(tmp_path / "out" / "overlays" / "large.jpg") == (1600, 400)


def test_ctrl_c_is_one_line_and_keeps_what_is_known(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(BrightnessPredictor, "stop_at", 2)
    run(photos, tmp_path / "out", status=130)
    assert [row["decision"] for row in table(tmp_path / "out")] == ["normal", "normal"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "interrupted"
    assert not any("Traceback" in line for line in lines)


def test_ctrl_c_before_the_first_result_keeps_the_table_of_before(photos, tmp_path, monkeypatch):
    run(photos, tmp_path / "out")
    monkeypatch.setattr(BrightnessPredictor, "stop_at", 0)
    run(photos, tmp_path / "out", status=130)
    assert len(table(tmp_path / "out")) == 3


def test_a_temporary_name_is_not_longer_than_the_name_that_is_allowed(tmp_path):
    files.write_text(tmp_path / ("x" * 255), "whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


def test_regions_are_in_pixels_of_the_photograph(photos, tmp_path):
    run(photos, tmp_path / "out")
    black, grey, _ = table(tmp_path / "out")
    assert (black["regions"], black["left"], black["peak"]) == ("0", "", "")
    assert [grey[name] for name in ("left", "top", "width", "height", "area")] == [
        "0", "0", "40", "30", "1200",
    ]  # fmt: skip
    assert float(grey["peak"]) == 90


def test_json_lines_on_the_standard_output(photos, capsys):
    (photos / "1a.png").write_bytes(b"x")
    arguments = ["--workdir", "w", "--input", str(photos), "--out", "-"]
    assert predict.cli(arguments) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["decision"] for row in rows] == ["normal", "normal", "unreadable", "anomalous"]
    assert rows[3]["terms"] == dict.fromkeys(TERMS, 200.0)
    assert rows[3]["regions"][0]["width"] == 40
    assert rows[3]["overlay"] is None


def test_a_row_is_on_the_disk_before_the_next_image_is_scored(photos, tmp_path, monkeypatch):
    seen = []
    score = BrightnessPredictor.predict_squares

    def watched(self, paths, image):
        path = tmp_path / "out" / "predictions.csv"
        seen.append(len(table(tmp_path / "out")) if path.exists() else 0)
        return score(self, paths, image)

    monkeypatch.setattr(BrightnessPredictor, "predict_squares", watched)
    run(photos, tmp_path / "out")
    assert seen == [0, 1, 2]


def test_a_list_of_paths(photos, tmp_path):
    names = tmp_path / "list.txt"
    names.write_text(f"{photos}/2.png\r\n\n{photos}/0.png\n")
    arguments = ["--workdir", "w", "--list", str(names), "--out", str(tmp_path / "out")]
    assert predict.cli(arguments) == 0
    assert [row["image_score"] for row in table(tmp_path / "out")] == ["200.0", "10.0"]
    names.write_text("\n")
    assert predict.cli(arguments) == 2


def test_another_threshold(photos, tmp_path):
    run(photos, tmp_path / "out", "--threshold", "50")
    rows = table(tmp_path / "out")
    assert [row["decision"] for row in rows] == ["normal", "anomalous", "anomalous"]
    assert {row["threshold"] for row in rows} == {"50.0"}


def test_the_rate_is_an_option_of_the_config(photos, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Workdir, "resolve", lambda _, path, sets: asked.append(sets) or Config())
    run(photos, tmp_path / "out", "--false-positive-rate", "0.2")
    assert asked == [["calibration.false_positive_rate=0.2"]]


@pytest.mark.parametrize("by", ["copy", "link"])
def test_images_are_sorted_and_stay_as_they_are(photos, tmp_path, by):
    (photos / "deeper").mkdir()
    shutil.copy(photos / "2.png", photos / "deeper" / "2.png")
    (photos / "1a.png").write_bytes(b"x")
    (photos / "0.png").chmod(0o640)
    before = {path: (path.stat(), path.read_bytes()) for path in photos.rglob("*.png")}
    options = ["--sort-into", str(tmp_path / "sorted"), "--sort-by", by]
    run(photos, tmp_path / "out", *options, status=1)
    run(photos, tmp_path / "out", "--threshold", "50", *options, status=1)  # one moves
    found = {
        str(path.relative_to(tmp_path / "sorted"))
        for path in (tmp_path / "sorted").rglob("*.png")
    }  # fmt: skip
    assert found == {"ok/0.png", "ng/1.png", "ng/2.png", "ng/deeper/2.png", "unreadable/1a.png"}
    assert (tmp_path / "sorted" / "ng" / "1.png").is_symlink() == (by == "link")
    assert (tmp_path / "sorted" / "ng" / "1.png").read_bytes() == (photos / "1.png").read_bytes()
    for path, (stat, content) in before.items():
        now = path.stat()
        assert (now.st_mode, now.st_mtime_ns, path.read_bytes()) == (
            stat.st_mode, stat.st_mtime_ns, content,
        )  # fmt: skip


def test_cameras_with_the_same_names_lose_no_image(photos, tmp_path):
    for camera in ("left", "right"):
        (photos / camera).mkdir()
        shutil.copy(photos / "2.png", photos / camera / "a.png")
    given = [str(photos / "left" / "a.png"), str(photos / "right" / "a.png")]
    arguments = ["--workdir", "w", "--out", "-", "--sort-into", str(tmp_path / "s")]
    assert predict.cli([*arguments, "--input", *given]) == 0
    assert sorted(p.name for p in (tmp_path / "s" / "ng").iterdir()) == ["a.png", "a_2.png"]


@pytest.mark.parametrize("by", ["copy", "link"])
def test_an_image_of_another_day_keeps_its_place(photos, tmp_path, by):
    """A camera whose counter starts again; and the same image, judged otherwise, moves."""
    options = ["--sort-into", str(tmp_path / "s"), "--sort-by", by]
    for day, level in (("monday", 200), ("tuesday", 10)):
        (tmp_path / day).mkdir()
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / day / "1.png")
        run(tmp_path / day, tmp_path / "out", *options)
    place = tmp_path / "s"
    assert (place / "ng" / "1.png").read_bytes() == (tmp_path / "monday" / "1.png").read_bytes()
    assert (place / "ok" / "1_2.png").read_bytes() == (tmp_path / "tuesday" / "1.png").read_bytes()
    run(tmp_path / "monday", tmp_path / "out", *options, "--threshold", "250")
    assert sorted(p.relative_to(place).as_posix() for p in place.rglob("*.png")) == [
        "ok/1.png", "ok/1_2.png",
    ]  # fmt: skip


def test_an_image_that_replaces_another_takes_nothing_from_it(photos, tmp_path, monkeypatch):
    """A camera that always writes the same file: neither copy nor picture of the first is lost."""
    latest, out = tmp_path / "latest.png", tmp_path / "out"
    given: dict[int, bytes] = {}

    def paths():
        for level in (200, 10, 150):
            Image.new("RGB", (8, 8), (level,) * 3).save(latest)
            given[level] = latest.read_bytes()
            yield f"{latest}\n"
            while not (out / "predictions.csv").exists() or len(table(out)) < len(given):
                time.sleep(0.01)

    monkeypatch.setattr("sys.stdin", paths())
    arguments = ["--workdir", "w", "--input", "-", "--sort-into", str(tmp_path / "s")]
    assert predict.cli([*arguments, "--out", str(out)]) == 0
    kept = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*.png")}
    assert kept == {
        tmp_path / "s" / place: given[level]
        for level, place in (
            (200, "ng/latest.png"),
            (10, "ok/latest_2.png"),
            (150, "ng/latest_3.png"),
        )
    }
    shown = [np.asarray(Image.open(out / row["overlay"])) for row in table(out)]
    assert len({picture.tobytes() for picture in shown}) == 3


def test_an_image_that_was_read_too_early_has_its_own_name(photos, tmp_path, monkeypatch):
    """An upload that paused: what there was of it is no other image's."""
    part, out = tmp_path / "part.png", tmp_path / "out"

    def paths():
        whole = (photos / "2.png").read_bytes()
        for count, content in enumerate((whole[:50], whole), start=1):
            part.write_bytes(content)
            yield f"{part}\n"
            while not (out / "predictions.csv").exists() or len(table(out)) < count:
                time.sleep(0.01)

    monkeypatch.setattr("sys.stdin", paths())
    arguments = ["--workdir", "w", "--input", "-", "--sort-into", str(tmp_path / "s")]
    assert predict.cli([*arguments, "--out", str(out)]) == 1
    sorted_ = [path.relative_to(tmp_path / "s") for path in (tmp_path / "s").rglob("*.png")]
    assert list(map(str, sorted_)) == ["ng/part.png"]


def test_each_image_finds_its_own_place_again_in_any_order(photos, tmp_path):
    for folder, level in (("a", 200), ("b", 210)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / folder / "1.png")
    given = [str(tmp_path / folder / "1.png") for folder in "ab"]
    arguments = ["--workdir", "w", "--out", "-", "--sort-into", str(tmp_path / "s")]
    for order in (given, given[::-1], given[::-1]):
        assert predict.cli([*arguments, "--input", *order]) == 0
        found = {p.name: p.read_bytes() for p in (tmp_path / "s").rglob("*.png")}
        assert found == {
            name: (tmp_path / folder / "1.png").read_bytes()
            for name, folder in (("1.png", "a"), ("1_2.png", "b"))
        }


def test_a_file_that_cannot_be_sorted_or_has_gone_has_a_row_that_says_so(
    photos, tmp_path, monkeypatch
):
    put = records._put

    def failing(source, target, by):
        if source.endswith("0.png"):
            raise OSError(30, "Read-only file system")
        put(source, target, by)

    monkeypatch.setattr(records, "_put", failing)
    monkeypatch.setattr(records, "has_file", lambda path: path.name != "1.png")
    run(photos, tmp_path / "out", "--sort-into", str(tmp_path / "s"), "--strict", status=1)
    assert [row["error"] for row in table(tmp_path / "out")] == [
        "not sorted: [Errno 30] Read-only file system", "not sorted: has gone", "",
    ]  # fmt: skip


def test_a_path_that_the_system_refuses_is_one_row(photos, tmp_path):
    long = str(photos / ("x" * 300))
    names = tmp_path / "list.txt"
    names.write_text(f"{long}\n{photos}/0.png\n")
    arguments = ["--workdir", "w", "--list", str(names), "--out", str(tmp_path / "out")]
    assert predict.cli([*arguments, "--sort-into", str(tmp_path / "s")]) == 1
    assert [row["error"] for row in table(tmp_path / "out")] == [
        "cannot be opened: File name too long", "",
    ]  # fmt: skip


def test_a_threshold_is_a_number(photos, tmp_path, capsys):
    run(photos, tmp_path / "out", "--threshold", "nan", status=2)
    assert "--threshold nan: give a number" in capsys.readouterr().err


def test_who_stops_reading_ends_the_command_with_one_line(photos, tmp_path, monkeypatch, capsys):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as nobody:
        monkeypatch.setattr("sys.stdout", nobody)
        run(photos, "-", status=2)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: the standard output: nobody reads it any more"
    )


def test_a_stream_of_paths_may_hold_names_that_are_no_text(photos, tmp_path, monkeypatch, capsys):
    odd = os.fsencode(photos) + b"/Pr\xfcfling.png"
    shutil.copy(photos / "2.png", os.fsdecode(odd))
    stdin = io.TextIOWrapper(io.BytesIO(odd + b"\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", stdin)
    run("-", tmp_path / "out")
    with (tmp_path / "out" / "predictions.csv").open(errors="surrogateescape") as stream:
        (row,) = csv.DictReader(stream)
    assert os.fsencode(row["path"]) == odd
    monkeypatch.setattr("sys.stdin", None)
    run("-", tmp_path / "out", status=2)
    assert "the standard input is closed" in capsys.readouterr().err


def test_what_has_no_end_keeps_the_table_of_the_start_before(photos, tmp_path, monkeypatch):
    for name in ("0", "2", "1"):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos}/{name}.png\n"))
        run("-", tmp_path / "out")
    found = {path.name: path.read_text() for path in (tmp_path / "out").glob("*.csv")}
    assert sorted(found) == ["predictions.csv", "predictions_1.csv", "predictions_2.csv"]
    assert "1.png" in found["predictions.csv"]
    assert "0.png" in found["predictions_1.csv"]
    assert "2.png" in found["predictions_2.csv"]


def test_what_was_not_sorted_here_is_not_replaced(photos, tmp_path, capsys):
    (tmp_path / "s" / "ok").mkdir(parents=True)
    (tmp_path / "s" / "ok" / "mine.png").write_bytes(b"x")
    run(photos, tmp_path / "out", "--sort-into", str(tmp_path / "s"), status=2)
    assert "--sort-into" in capsys.readouterr().err


def test_paths_on_the_standard_input(photos, tmp_path, monkeypatch, capsys):
    lines = [f"{photos}/{name}\n" for name in ("2.png", "absent.png", "0.png", "1.png")]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(lines)))
    assert predict.cli(["--workdir", "w", "--input", "-", "--out", "-", "--format", "csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    by_path = {row["path"].rsplit("/", 1)[-1]: row for row in rows}
    assert {name: row["decision"] for name, row in by_path.items()} == {
        "2.png": "anomalous", "absent.png": "unreadable", "0.png": "normal", "1.png": "normal",
    }  # fmt: skip
    assert by_path["absent.png"]["error"] == "no such file or folder"


@pytest.fixture
def joined(monkeypatch):
    """A job of one process, which is joined already."""
    monkeypatch.setattr(processes, "join", lambda _: None)
    monkeypatch.setattr(processes, "leave", lambda status: status)


@pytest.mark.usefixtures("joined")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "give --input or --list"),
        (["--input", "-", "x"], "give it alone"),
        (["--input", "absent", "--watch"], "has to be folders"),
        (["--input", "x", "--threshold", "1", "--false-positive-rate", "0.1"], "not both"),
        (["--input", "-", "--distributed"], "images that are all there"),
        (["--input", ".", "--watch", "--distributed"], "images that are all there"),
        (["--input", "x", "--distributed", "--out", "-"], "a folder that all processes see"),
        (["--input", "x", "--out", "x.parquet"], "CSV or JSON lines"),
    ],
)
def test_what_does_not_go_together(options, words, capsys):
    assert predict.cli(["--workdir", "w", "--out", "o", *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("joined")
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_fleet_writes_the_rows_of_one_process_and_a_summary(photos, tmp_path, kind):
    (photos / "1a.png").write_bytes(b"x")
    os.mkfifo(photos / "3.png")
    run(photos, tmp_path / "one", "--format", kind, "--no-overlays", status=1)
    fleet = ("--no-overlays", "--distributed")
    run(photos, tmp_path / f"many.{kind}", *fleet, "--strict", status=1)
    run(photos, tmp_path / f"many.{kind}", *fleet)
    name = f"predictions.{kind}"
    one, many = ((tmp_path / out / name).read_bytes() for out in ("one", f"many.{kind}"))
    assert one == many
    summary = json.loads((tmp_path / f"many.{kind}" / "summary.json").read_text())
    assert summary["images"] == 5
    assert summary["count"] == {"normal": 2, "anomalous": 1, "unreadable": 2, "error": 2}
    assert summary["highest"][0] == [200.0, str(photos / "2.png")]
    assert [error for _, error in summary["errors"]] == [
        "cannot be read as image: of no known image format",
        "not a file but a pipe, socket or device",
    ]
    assert sorted(path.name for path in (tmp_path / f"many.{kind}").iterdir()) == [
        "made_by_invad_jax.json", name, "summary.json",
    ]  # fmt: skip


@pytest.mark.usefixtures("joined")
def test_a_fleet_draws_and_sorts_below_the_number_of_the_shard(photos, tmp_path):
    run(photos, tmp_path / "out", "--distributed", "--sort-into", str(tmp_path / "sorted"))
    assert [row["overlay"] for row in table(tmp_path / "out")] == [
        f"overlays/000000/{i}.jpg" for i in range(3)
    ]
    assert size(tmp_path / "out" / "overlays" / "000000" / "2.jpg") == (40, 30)
    assert (tmp_path / "sorted" / "ng" / "000000" / "2.png").is_file()


@pytest.mark.usefixtures("joined")
def test_a_fleet_of_which_none_can_be_read_is_one_line(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"x")
    run(tmp_path / "photos", tmp_path / "out", "--distributed", status=2)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert "none of 1 images could be read" in line
    assert len(table(tmp_path / "out")) == 1


@pytest.mark.usefixtures("joined")
def test_a_fleet_that_was_stopped_goes_on_and_refuses_another(
    photos, tmp_path, monkeypatch, capsys
):
    for i in range(3, 40):
        shutil.copy(photos / "0.png", photos / f"{i:02}.png")
    monkeypatch.setattr(BrightnessPredictor, "stop_at", 20)
    run(photos, tmp_path / "out", "--distributed", status=130)
    monkeypatch.setattr(BrightnessPredictor, "stop_at", None)
    run(photos, tmp_path / "out", "--distributed", "--no-overlays", status=2)
    assert "other work (overlays was True, now False)" in capsys.readouterr().err
    (photos / "0a.png").write_bytes(b"came later")
    run(photos, tmp_path / "out", "--distributed")
    assert "40 images in 3 shards, 1 of them done before" in capsys.readouterr().err
    assert BrightnessPredictor.asked == (24, 40)  # the same batches as of the whole
    assert len(table(tmp_path / "out")) == 40


def broken(folder, count):
    """Files of every usual format that were cut, flipped, emptied, renamed; and what is no file."""
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (24, 31, 3), dtype=np.uint8))
    whole = {}
    for kind in ("png", "jpg", "tif", "bmp", "webp", "gif"):
        stream = io.BytesIO()
        pixels.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper()))
        whole[kind] = stream.getvalue()
    for i in range(count):
        kind = list(whole)[i % len(whole)]
        data = bytearray(whole[kind])
        match i // len(whole) % 5:
            case 0:
                data = data[: rng.integers(0, len(data))]
            case 1:
                for at in rng.integers(0, len(data), 12):
                    data[at] ^= int(rng.integers(1, 256))
            case 2:
                data[: rng.integers(1, 40)] = rng.bytes(rng.integers(0, 40))
            case 3:
                data[8:28] = b"\xff" * 20  # sizes beyond all memory, among others
            case 4:
                kind = "jpg" if kind != "jpg" else "png"  # a name that says another format
        (folder / f"{i:03}.{kind}").write_bytes(bytes(data))
    (folder / "empty.png").write_bytes(b"")
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "itself.png").symlink_to("itself.png")
    os.mkfifo(folder / "pipe.png")


def test_no_broken_image_ends_it_is_lost_or_is_touched(tmp_path, capsys):
    folder = tmp_path / "broken"
    folder.mkdir()
    broken(folder, 330)
    real = sorted(path for path in folder.iterdir() if path.is_file())
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in real}
    run(folder, tmp_path / "out", "--sort-into", str(tmp_path / "sorted"), "--strict", status=1)
    rows = table(tmp_path / "out")
    assert [row["path"] for row in rows] == sorted(map(str, folder.iterdir()))
    bad = [row for row in rows if row["decision"] == "unreadable"]
    assert len(bad) > 100
    assert all(row["error"] and "\n" not in row["error"] for row in bad)
    assert all(row["image_score"] for row in rows if row not in bad)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in real} == before
    counted = [line for line in capsys.readouterr().err.splitlines() if "with an error" in line]
    assert len(counted) == 1
