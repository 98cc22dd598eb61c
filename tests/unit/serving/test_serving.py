"""The server of a line: what it decides, what it refuses, and its page in a browser."""

import base64
import csv
import http.client
import io
import json
import os
import socket
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from invad_jax import serve
from invad_jax.config import Config, DataConfig
from invad_jax.errors import UserError
from invad_jax.runtime.workdir import Workdir
from invad_jax.serving import line as line_lib
from invad_jax.serving.shift import MOST_PICTURES, Record, Shift, drift
from tests import browser
from tests.unit.test_predict import BrightnessPredictor

uvicorn = pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
app = pytest.importorskip("invad_jax.serving.app", reason="the extra [serve] is not installed")

HOSTILE = "<img src=x onerror=alert(1)>&\"'.png"
LIMIT = 200_000
DATA = DataConfig(image_size=8)


class Predictor(BrightnessPredictor):
    """Above 100 an image is anomalous; its score is its brightness."""

    def __init__(self):
        self.model = SimpleNamespace(config=Config(data=DATA), batch_size=2)


def png(level, size=(40, 30)):
    stream = io.BytesIO()
    Image.new("RGB", size, (level,) * 3).save(stream, format="PNG")
    return stream.getvalue()


@contextmanager
def serving(application):
    """The port of a server that runs in a thread."""
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def line(tmp_path):
    line = line_lib.Line(Predictor(), tmp_path / "shifts")
    yield line
    line.close()


@pytest.fixture
def port(line):
    with serving(app.create(line, "part.invad", LIMIT, ["camera"], serve._LOOPBACK)) as port:
        yield port


def ask(port, method, path, body=None, **headers):
    """(status, content) of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        content = answer.read()
        if answer.getheader("content-type") == "application/json":
            content = json.loads(content)
        return answer.status, content
    finally:
        connection.close()


def post(port, content, name="part.png", kind="image/png"):
    return ask(port, "POST", f"/api/images?name={name}", content, content_type=kind)


def test_an_image_is_decided_on_and_remembered(port, line, tmp_path):
    status, seen = post(port, png(180))
    assert status == 201
    assert (seen["decision"], seen["image_score"], seen["component"]) == ("anomalous", 180, "part")
    assert seen["regions"] == [
        {"left": 0, "top": 0, "width": 40, "height": 30, "area": 1200, "peak": 180}
    ]
    assert post(port, png(20))[1]["decision"] == "normal"
    _, shift = ask(port, "GET", "/api/shift?after=1")
    assert (shift["normal"], shift["anomalous"], shift["unreadable"]) == (1, 1, 0)
    assert [one["id"] for one in shift["images"]] == [2]
    status, photograph = ask(port, "GET", "/api/images/1/photograph")
    assert Image.open(io.BytesIO(photograph)).size == (40, 30)
    assert Image.open(io.BytesIO(ask(port, "GET", "/api/images/1/heat")[1])).format == "PNG"
    assert ask(port, "GET", "/api/images/2/heat")[0] == 204
    assert ask(port, "GET", "/api/images/3/heat")[0] == 404
    (table,) = (tmp_path / "shifts").iterdir()
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [row["decision"] for row in rows] == ["anomalous", "normal"]
    times = [datetime.fromisoformat(row["time"]) for row in rows]
    assert times[0] < times[1] <= datetime.now(UTC)
    assert all(float(row["milliseconds"]) > 0 for row in rows)
    assert ask(port, "GET", "/api/shift.csv")[1] == table.read_bytes()


def test_an_image_that_cannot_be_read_is_told_without_a_path(port):
    status, seen = post(port, b"no image at all")
    assert (status, seen["decision"]) == (201, "unreadable")
    assert seen["error"] == "cannot be read as image: of no known image format"
    assert ask(port, "GET", "/api/shift")[1]["unreadable"] == 1


def test_a_name_is_text_and_opens_nothing(port, tmp_path):
    (tmp_path / "secret.png").write_bytes(png(180))
    _, seen = post(port, b"", name=f"{tmp_path}/secret.png")
    assert seen["decision"] == "unreadable"
    assert seen["name"] == f"{tmp_path}/secret.png"
    for path in ("/../serve.py", "/%2e%2e/line.py", "//etc/passwd", "/api/images/..%2f1/heat"):
        assert ask(port, "GET", path)[0] in (404, 422)


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large_an_image_is_refused(port, chunked):
    content = bytes(LIMIT + 1)
    body = (content[i : i + 1000] for i in range(0, len(content), 1000)) if chunked else content
    status, told = post(port, body)
    assert (status, told["detail"]) == (413, f"more than {LIMIT} bytes; see --max-megabytes")


def test_what_is_no_image_by_its_type_is_refused(port):
    assert post(port, png(1), kind="text/html")[0] == 415
    assert post(port, png(1), kind="application/octet-stream")[0] == 201


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:80", "origin": "http://evil.example:80"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[evil"}, 403),
        ({"host": "[evil"}, 403),
        ({"host": "localhost:1"}, 200),
        ({}, 200),
    ],
)
def test_another_page_in_the_browser_is_refused(port, headers, status):
    assert ask(port, "GET", "/api/shift", **headers)[0] == status


def test_a_threshold_is_moved_for_what_comes(port):
    _, before = ask(port, "GET", "/api/detector")
    (kind,) = before["kinds"]
    assert (kind["threshold"], kind["calibrated_threshold"]) == (100, 100)
    json_type = {"content_type": "application/json"}
    status, after = ask(port, "PUT", "/api/thresholds", '{"part": 190.5}', **json_type)
    assert (status, after["kinds"][0]["threshold"]) == (200, 190.5)
    assert post(port, png(180))[1]["decision"] == "normal"
    for wrong in ('{"nut": 1}', '{"part": NaN}', '{"part": "x"}', '{"part": 1e999}', "["):
        assert ask(port, "PUT", "/api/thresholds", wrong, **json_type)[0] == 422
    assert ask(port, "GET", "/api/detector")[1]["kinds"][0]["threshold"] == 190.5


def test_a_new_shift_counts_anew_and_has_a_table_of_its_own(port, tmp_path):
    post(port, png(20))
    status, shift = ask(port, "POST", "/api/shift")
    assert (status, shift["normal"], shift["images"]) == (201, 0, [])
    assert post(port, png(20))[1]["id"] == 2
    assert len(list((tmp_path / "shifts").iterdir())) == 2


def test_the_table_of_a_shift_computes_nothing(port):
    post(port, png(20), name="=cmd()")
    _, table = ask(port, "GET", "/api/shift.csv")
    (row,) = csv.DictReader(io.StringIO(table.decode()))
    assert row["path"] == "'=cmd()"


def test_the_interface_is_described(port):
    _, described = ask(port, "GET", "/openapi.json")
    assert described["openapi"].startswith("3.")
    assert set(described["paths"]) == {
        "/api/detector", "/api/thresholds", "/api/images", "/api/shift", "/api/shift.csv",
        "/api/images/{number}/photograph", "/api/images/{number}/heat",
    }  # fmt: skip


def test_a_watched_folder_is_followed(line, tmp_path):
    folder = tmp_path / "camera"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(180))
    deadline = time.monotonic() + 60

    def stopped(seconds):
        time.sleep(seconds)
        return bool(line.shift.records) or time.monotonic() > deadline

    line_lib.watch(line, [str(folder)], stopped)
    (record,) = line.shift.records.values()
    assert (record.name, record.decision) == ("a.png", "anomalous")


def test_a_history_that_cannot_be_kept_stops_nothing_and_is_told(port, line, tmp_path, monkeypatch):
    post(port, png(20))

    def full(row):
        raise UserError("shift.csv: cannot be written: No space left on device")

    monkeypatch.setattr(line._table, "write", full)
    assert post(port, png(180))[1]["decision"] == "anomalous"
    assert "No space left" in ask(port, "GET", "/api/shift")[1]["trouble"]
    monkeypatch.undo()
    post(port, png(20))
    assert ask(port, "GET", "/api/shift")[1]["trouble"] is None


def test_a_disk_that_was_full_for_a_moment_costs_the_rows_of_that_moment(line, tmp_path):
    paths = []
    for level in (20, 180, 30):
        paths.append(tmp_path / f"{level}.png")
        paths[-1].write_bytes(png(level))
    line.take_file(str(paths[0]), "first")
    with open("/dev/full", "w") as full:  # takes nothing, as a disk that is full
        kept = os.dup(line._table._stream.fileno())
        os.dup2(full.fileno(), line._table._stream.fileno())
        assert line.take_file(str(paths[1]), "lost").decision == "anomalous"
        os.close(kept)
    assert "No space left" in line.trouble
    line.take_file(str(paths[2]), "last")
    assert line.trouble is None
    (file,) = (tmp_path / "shifts").iterdir()
    with file.open(newline="") as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == ["first", "last"]
    line._table._stream.close()  # as after another failure
    line._table._stream = None
    file.unlink()  # somebody made room
    line.take_file(str(paths[2]), "anew")
    assert line.trouble is None
    with file.open(newline="") as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == ["anew"]


def test_an_image_that_breaks_everything_leaves_the_next_one_its_turn(line, tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png(180))
    taken, ticks = [], iter([False, False, False, True])

    def take(path, name):
        taken.append(name)
        if name == "a.png":
            raise ValueError("broken")

    monkeypatch.setattr(line, "take_file", take)
    monkeypatch.setattr("invad_jax.evaluation.arriving.QUIET", 0)
    line_lib.watch(line, [str(tmp_path)], lambda seconds: next(ticks))
    assert taken == ["a.png", "b.png"]
    assert "was not decided on: broken" in line.trouble
    line.begin_shift()
    assert line.trouble is None


def test_a_name_that_is_no_text_is_shown_all_the_same(port, line, tmp_path):
    path = os.fsencode(tmp_path) + b"/Pr\xfcfling.png"
    with open(path, "wb") as stream:
        stream.write(png(20))
    line.take_file(os.fsdecode(path), os.fsdecode(b"Pr\xfcfling.png"))
    status, shift = ask(port, "GET", "/api/shift")
    assert status == 200
    assert [image["name"] for image in shift["images"]] == ["Pr?fling.png"]
    assert ask(port, "GET", "/api/shift.csv")[0] == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--watch", "nowhere"], "--watch nowhere: no such folder"),
        (["--max-megabytes", "0"], "at least 1"),
        (["--port", "70000"], "--port 70000"),
        (["--host", "no such host"], "--host no such host"),
        (["--prot", "1"], "--port"),
        ([], "Address already in use"),
    ],
)
def test_what_is_wrong_is_one_line_before_a_detector_is_loaded(
    arguments, message, monkeypatch, capsys
):
    monkeypatch.setattr(Workdir, "resolve", lambda *_: Config())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = ["--port", str(taken.getsockname()[1])]
        assert serve.cli(["--workdir", "w", *port, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_pictures_of_long_ago_are_forgotten_and_counts_are_not():
    shift = Shift()
    for i in range(MOST_PICTURES + 5):
        shift.add(Record(i, None, "x", "normal"), SimpleNamespace())
    assert (len(shift.pictures), min(shift.pictures)) == (MOST_PICTURES, 5)
    assert shift.count["normal"] == len(shift.records) == MOST_PICTURES + 5


@pytest.mark.parametrize(("shift", "moved"), [(0.0, False), (0.8, True), (-0.8, True)])
def test_drift_is_told_in_words(shift, moved):
    rng = np.random.default_rng(0)
    normals = {"nut": np.sort(rng.normal(size=100)), "pin": np.sort(rng.normal(size=100))}
    scores = [*(shift + rng.normal(size=60)), *rng.normal(9, size=30)]
    records = [
        Record(i, None, "x", "anomalous" if score > 4 else "normal", score, 4.0, "nut")
        for i, score in enumerate(scores)
    ]
    lines = drift(records, normals)
    assert len(lines) == moved
    assert all(("higher" if shift > 0 else "lower") in line for line in lines)
    assert drift(records[:10], normals) == []  # of few nothing is said


def test_good_shifts_are_seldom_called_moved():
    """4 in 100 (see `drift`): of 25 shifts, more than 4 would be once in 300 tries."""
    told = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        normals = {"nut": np.sort(rng.normal(size=200))}
        records = [
            Record(i, None, "x", "normal", x, 9.0, "nut")
            for i, x in enumerate(rng.normal(size=1000))
        ]
        told += any(drift(records[:end], normals) for end in range(20, 1001, 20))
    assert told <= 4


def test_a_threshold_that_was_lowered_is_no_drift():
    """What passed the higher one is not among the images that the lower one lets pass."""
    told, limits = 0, [2.6] * 60 + [0.5] * 80
    for seed in range(50):
        rng = np.random.default_rng(seed)
        normals = {"nut": np.sort(rng.normal(size=200))}
        records = [
            Record(i, None, "x", "normal" if x <= limit else "anomalous", x, limit, "nut")
            for i, (x, limit) in enumerate(zip(rng.normal(size=140), limits, strict=True))
        ]
        told += bool(drift(records, normals))
    assert told <= 1  # of 50 at one in a thousand, two would be once in 800 tries


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["wide", "narrow"])
def test_the_page_shows_what_comes(port, size, tmp_path):
    send = (
        "send([new File([Uint8Array.from(atob('{1}'), c => c.charCodeAt(0))], {0}, "
        "{{type: 'image/png'}})]), 1"
    )  # as a drop does
    image = send.format(json.dumps(HOSTILE), base64.b64encode(png(180)).decode())
    verdict = "document.querySelector('#verdict').textContent"
    shown = "document.querySelector('.photograph').naturalWidth || null"
    row = "document.querySelector('#latest tbody td')?.textContent"
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    slide = "const s = document.querySelector('#kinds input'); s.value = 190, s.oninput(), 1"
    told = "document.querySelector('#kinds output').textContent.includes('0 of 1 of this') || null"
    use = "document.querySelector('#kinds .use').click(), 1"
    used = "document.querySelector('#kinds .use').disabled || null"
    picture = tmp_path / "line.png"
    seen = browser.look(
        f"http://127.0.0.1:{port}/", "document.querySelector('#kinds output')?.textContent", image,
        f"{verdict}.includes('NOT OK') ? {verdict} : null", shown, row, fits, slide, told, use,
        used, size=size, picture=picture,
    )  # fmt: skip
    assert seen.console == []
    assert seen.values[2] == f"NOT OK{HOSTILE}: anomalous"
    assert seen.values[3:6] == [40, HOSTILE, True]
    assert ask(port, "GET", "/api/detector")[1]["kinds"][0]["threshold"] == pytest.approx(190, 1e-2)
    with Image.open(picture) as looked_at:
        assert looked_at.width == size[0]
