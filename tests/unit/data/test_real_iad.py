"""Real-IAD on generated trees (empty files: only names are read)."""

import json

import pytest

from invad_jax.data.layouts import Dataset, Sample
from tests.unit.data.layout_trees import load, make, refusal

NORMAL, SCRATCH, PIT = "OK/S0001/a_C1.jpg", "NG/HS/S0002/b_C1.jpg", "NG/AK/S0003/c_C2.jpg"
MASK = "NG/HS/S0002/b_C1.png"


def row(path, kind, mask=None):
    return {"category": "plug", "anomaly_class": kind, "image_path": path, "mask_path": mask}


def tree(root, places=("realiad_1024",), **changes):
    names = [f"{place}/plug/{name}" for place in places for name in (NORMAL, SCRATCH, PIT, MASK)]
    make(root, *names, "realiad_jsons/plug.json", "realiad_jsons/._plug.json", "._x.json")
    content = {
        "meta": {"normal_class": "OK", "prefix": "plug/"},
        "train": [row(NORMAL, "OK")],
        "test": [row(SCRATCH, "HS", MASK), row(PIT, "AK"), row(NORMAL, "OK", MASK)],
        **changes,
    }
    (root / "realiad_jsons/plug.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (("realiad_1024",), "realiad_1024"),
        (("realiad_256", "realiad_1024", "realiad_raw"), "realiad_1024"),
        (("realiad_256",), "realiad_256"),
        ((".",), "."),
    ],
)
def test_the_splits_of_its_tables(tmp_path, places, expected):
    root = tree(tmp_path, places=places)
    images = root / expected / "plug"
    assert load("real_iad", root) == Dataset(
        train=(Sample(str(images / NORMAL), "plug", "good", 0),),
        test=(
            Sample(str(images / SCRATCH), "plug", "HS", 1, (str(images / MASK),)),
            Sample(str(images / PIT), "plug", "AK", 1),
            Sample(str(images / NORMAL), "plug", "good", 0),
        ),
    )


def test_tables_one_folder_deeper(tmp_path):
    tree(tmp_path)
    inner = tmp_path / "realiad_jsons" / "realiad_jsons"
    inner.mkdir()
    (tmp_path / "realiad_jsons" / "plug.json").rename(inner / "plug.json")
    assert len(load("real_iad", tmp_path, "plug").test) == 3
    assert "did you mean plug?" in refusal("real_iad", tmp_path, "plugs")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": [row(SCRATCH, "HS")]}, "an anomalous image cannot be trained on"),
        ({"train": []}, "no normal images"),
        ({"train": [row("OK/gone.jpg", "OK")]}, "gone.jpg: no such file"),
        ({"test": [row(SCRATCH, "HS", "gone.png")]}, "gone.png: no such file"),
        ({"test": [{}]}, "not a table of Real-IAD"),
        ({"meta": []}, "not a table of Real-IAD"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, expected):
    message = refusal("real_iad", tree(tmp_path, **changes))
    assert message.startswith(f"{tmp_path}/realiad_jsons/plug.json: ")
    assert expected in message


def test_what_is_no_real_iad_is_named(tmp_path):
    assert f"data.root={tmp_path}: no such file as" in refusal("real_iad", tmp_path)
    assert "data.root=: no such file as" in refusal("real_iad", "")
