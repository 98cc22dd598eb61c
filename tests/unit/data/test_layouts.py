"""Layouts on generated trees (empty files: only names are read) and on real data sets."""

import csv
import io
import itertools
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.data.layouts import (
    Dataset,
    Sample,
    content_hash,
    fingerprint,
    hold_out,
    load_dataset,
)
from invad_jax.errors import UserError
from tests.unit.data.layout_trees import load, make, refusal


def numbered(folder, count, extension="png"):
    return [f"{folder}/{i:03d}.{extension}" for i in range(count)]


def counts(dataset: Dataset):
    return Counter(s.defect for s in dataset.train), Counter(s.defect for s in dataset.test)


@pytest.fixture
def mvtec(tmp_path):
    return make(
        tmp_path / "data",
        *numbered("nut/train/good", 3),
        *numbered("nut/test/good", 2),
        *numbered("nut/test/crack", 2, "JPG"),
        *numbered("nut/test/hole", 2),
        "nut/ground_truth/crack/000_mask.png",
        "nut/ground_truth/crack/001.bmp",
        *numbered("bolt/train/good", 2, "bmp"),
        "notes/readme.txt",
        ".trash/train/good/000.png",
    )


def test_mvtec(mvtec):
    dataset = load("mvtec", mvtec)
    assert [s.category for s in dataset.train] == ["bolt"] * 2 + ["nut"] * 3
    assert {(s.defect, s.gt_label, s.mask_paths) for s in dataset.train} == {("good", 0, ())}
    nut = mvtec / "nut"
    assert dataset.test[:3] == (
        Sample(
            str(nut / "test/crack/000.JPG"), "nut", "crack", 1,
            (str(nut / "ground_truth/crack/000_mask.png"),),
        ),
        Sample(
            str(nut / "test/crack/001.JPG"), "nut", "crack", 1,
            (str(nut / "ground_truth/crack/001.bmp"),),
        ),
        Sample(str(nut / "test/good/000.png"), "nut", "good", 0),
    )  # fmt: skip
    # a missing ground_truth folder is an unknown mask
    assert [(s.defect, s.gt_label, s.mask_paths) for s in dataset.test[4:]] == [("hole", 1, ())] * 2


def test_a_single_missing_mask_is_unknown(mvtec):
    (mvtec / "nut/ground_truth/crack/001.bmp").unlink()
    masks = [not s.mask_paths for s in load("mvtec", mvtec).test if s.defect == "crack"]
    assert masks == [False, True]


def test_categories_of_any_name_are_chosen_on_the_command_line(tmp_path):
    odd = ("bracket (left)", "a, b", "(x)", "[y] z", "driver's", "nut")
    make(tmp_path, *(f"{name}/train/good/0.png" for name in odd))
    for text, expected in {
        "bracket (left)": ["bracket (left)"],
        '"a, b",nut': ["a, b", "nut"],
        "'a, b', nut": ["a, b", "nut"],
        "['a, b', 'bracket (left)']": ["a, b", "bracket (left)"],
        '"(x)"': ["(x)"],
        "(x),[y] z": ["(x)", "[y] z"],
        "driver's,nut": ["driver's", "nut"],
        "(nut,driver's)": ["driver's", "nut"],
    }.items():
        options = [f"data.root={tmp_path}", "data.name=mvtec", f"data.categories={text}"]
        dataset = load_dataset(override(Config(), options).data)
        assert sorted(s.category for s in dataset.train) == sorted(expected), text
    assert "in quotes: data.categories='\"a, b\"'" in refusal("mvtec", tmp_path, "a", "b")


def test_categories_are_chosen_by_name_in_sorted_order(mvtec):
    assert {s.category for s in load("mvtec", mvtec, "nut").train} == {"nut"}
    both = [s.category for s in load("mvtec", mvtec, "nut", "bolt", "nut").train]
    assert both == ["bolt"] * 2 + ["nut"] * 3


def test_the_root_of_one_category_is_that_category(mvtec, monkeypatch):
    assert counts(load("mvtec", mvtec / "nut", "nut"))[1] == {"good": 2, "crack": 2, "hole": 2}
    monkeypatch.chdir(mvtec / "nut")
    assert {s.category for s in load("mvtec", ".").train} == {"nut"}


def test_a_category_without_a_test_set_can_be_trained(mvtec):
    assert load("mvtec", mvtec, "bolt").test == ()


def test_unknown_names_get_the_nearest(mvtec):
    assert "did you mean nut?" in refusal("mvtec", mvtec, "nutt")
    assert "there is bolt, nut" in refusal("mvtec", mvtec, "zzzzz")
    assert "did you mean mvtec?" in refusal("mvtek", mvtec)


@pytest.mark.parametrize("name", ["mvtec", "folder", "csv"])
def test_a_missing_root_is_named(tmp_path, name):
    assert f"data.root={tmp_path / 'no'}: no such" in refusal(name, tmp_path / "no")
    assert "data.root=: no such" in refusal(name, "")


def test_an_empty_category_is_named(tmp_path):
    make(tmp_path, "nut/train/good/readme.txt")
    assert "nut/train: no normal images" in refusal("mvtec", tmp_path)


@pytest.mark.parametrize("name", ["mvtec", "folder"])
def test_anomalous_training_images_are_refused(mvtec, name):
    make(mvtec, "nut/train/crack/000.png")
    assert "train/crack: anomalous images cannot be trained on" in refusal(name, mvtec / "nut")


def test_no_category_hints_at_the_plain_folder(tmp_path):
    make(tmp_path, "good/000.png", "bad/000.png")
    assert "data.name=folder" in refusal("mvtec", tmp_path)


def test_folder_with_a_split(tmp_path):
    root = make(
        tmp_path / "part",
        *numbered("train/OK", 3),
        *numbered("test/Normal", 2),
        *numbered("test/dent", 2, "jpeg"),
        "ground_truth/dent/001_mask.png",
    )
    dataset = load("folder", root)
    assert counts(dataset) == ({"good": 3}, {"good": 2, "dent": 2})
    assert {s.category for s in dataset.train + dataset.test} == {"part"}
    masks = [s.mask_paths for s in dataset.test if s.gt_label]
    assert masks == [(), (str(root / "ground_truth/dent/001_mask.png"),)]


def test_folder_with_images_directly_in_train_and_no_test(tmp_path):
    root = make(tmp_path, *numbered("train", 3))
    assert counts(load("folder", root)) == ({"good": 3}, {})


def test_folder_without_a_split_keeps_a_fifth_of_the_normals_for_the_test(tmp_path):
    root = make(
        tmp_path / "part",
        *numbered("good", 20),
        *numbered("bad", 3),
        *numbered("scratch", 2),
        "ground_truth/bad/002.png",
        "empty/readme.txt",
    )
    dataset = load("folder", root)
    assert counts(dataset) == ({"good": 16}, {"good": 4, "bad": 3, "scratch": 2})
    kept = [s.path[-7:-4] for s in dataset.test if not s.gt_label]
    assert kept == ["002", "007", "012", "017"]  # the middle of each fifth of the sorted list
    assert [s.mask_paths for s in dataset.test if s.defect == "bad"][2][0].endswith("002.png")


def test_only_good_images_are_all_trained_on(tmp_path):
    assert counts(load("folder", make(tmp_path, *numbered("good", 5)))) == ({"good": 5}, {})


def test_folder_categories_option_names_the_folder(tmp_path):
    root = make(tmp_path / "part", *numbered("good", 5))
    assert len(load("folder", root, "part").train) == 5
    assert "there is part" in refusal("folder", root, "xxxx")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train/good/0.png", "test/0.png"], "have no label"),
        (["train/good/0.png", "test/0.png"], "predict"),
        (["a/train/good/0.png", "b/train/good/0.png"], "holds categories (a, b)"),
        (["a/train/good/0.png"], "data.name=mvtec"),
        (["bad/0.png"], "no normal images"),
        (["good/0.png", "test/bad/0.png"], "has test but no train"),
        (["train/readme.txt"], "train: no normal images"),
    ],
)
def test_folder_says_what_is_wrong(tmp_path, names, expected):
    assert expected in refusal("folder", make(tmp_path, *names))


TABLE = """path,split,label,mask_path,category,operator
a.png,train,good,,nut,Ann
b.png,Train,0,,nut,
sub/c.png,test,1,sub/c_mask.png,nut,
"d, e.png",test,scratch,,,
f.png,test,OK,sub/c_mask.png,nut,
g.png,train,normal,,,
"""


@pytest.fixture
def table(tmp_path):
    make(tmp_path, "a.png", "b.png", "sub/c.png", "sub/c_mask.png", "d, e.png", "f.png", "g.png")
    return tmp_path / "parts.csv"


def expected_table(root):
    nut = [Sample(str(root / name), "nut", "good", 0) for name in ("a.png", "b.png")]
    mask = (str(root / "sub/c_mask.png"),)
    return Dataset(
        train=(*nut, Sample(str(root / "g.png"), "parts", "good", 0)),
        test=(
            Sample(str(root / "sub/c.png"), "nut", "anomalous", 1, mask),
            Sample(str(root / "f.png"), "nut", "good", 0),  # a mask of a normal image says nothing
            Sample(str(root / "d, e.png"), "parts", "scratch", 1),
        ),
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "sep=;\n;"])
@pytest.mark.parametrize("name", ["parts.csv", "parts.tsv", "parts.txt"])
def test_csv(table, encoding, delimiter, name):
    table = table.with_name(name)
    lines = list(csv.reader(TABLE.splitlines()))
    lines[0] = ["Path", " split", "LABEL", "mask_path", "category", "operator"]
    stream = io.StringIO(newline="")
    stream.write(delimiter[:-1])
    csv.writer(stream, delimiter=delimiter[-1]).writerows(lines)
    table.write_text(stream.getvalue(), encoding=encoding, newline="")
    assert load("csv", table) == expected_table(table.parent)
    assert load("csv", table, "parts").train == expected_table(table.parent).train[2:]


def test_a_column_that_is_missing_is_named(table):
    table.write_text("path;split;klass\na.png;train;good\n")
    assert f"{table}:1: no column label; the first line must name" in refusal("csv", table)
    table.write_text("sep=;\npath;split;label\na.png;train;good\nb.png;train;bad\n")
    assert refusal("csv", table).startswith(f"{table}:4: an anomalous image")


def test_paths_of_windows(table):
    table.write_text("path,split,label\nsub\\c.png,train,good\n")
    assert load("csv", table).train[0].path == str(table.parent / "sub/c.png")


def test_a_list_in_json(table):
    path = table.with_suffix(".json")
    rows = [{"path": name, "split": "train", "label": 0} for name in ("a.png", "b.png")]
    path.write_text(json.dumps(rows, indent=2))
    assert [s.path[-5:] for s in load("csv", path).train] == ["a.png", "b.png"]


def test_jsonl(table):
    jsonl = table.with_suffix(".jsonl")
    rows = [
        {"path": str(table.parent / "a.png"), "split": "train", "label": "good", "category": "nut"},
        {"path": "b.png", "split": "train", "label": 0, "category": "nut", "mask_path": None},
        {"path": "sub/c.png", "split": "test", "label": 1, "mask_path": "sub/c_mask.png",
         "category": "nut"},
        {"path": "d, e.png", "split": "test", "label": "scratch"},
        {"path": "f.png", "split": "test", "label": "good", "category": "nut"},
        {"path": "g.png", "split": "train", "label": "good"},
    ]  # fmt: skip
    jsonl.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert load("csv", jsonl) == expected_table(table.parent)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("a.png,test,good", "listed before, at"),
        ("no.png,test,good", "no.png: no such file"),
        ("b.png,valid,good", "split 'valid': expected train or test"),
        ("b.png,train,crack", "cannot be trained on"),
        ("b.png,test,", "no label"),
        ("b.png", "no split"),
        ("b.png,test,0.0", "label '0.0'"),
        ("b.png,test,False", "label 'False'"),
        ("b.png,test,nan", "label 'nan'"),
        ("b.png,test,2", "label '2'"),
        ("b.png,test,1,no_mask.png", "mask_path"),
    ],
)
def test_csv_errors_name_file_and_line(table, row, expected):
    table.write_text(f"path,split,label,mask_path\na.png,train,0\n{row}\n")
    message = refusal("csv", table)
    assert message.startswith(f"{table}:3: ")
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"path": "a.png"}\n', ":1: no split"),
        ('{"path": "a.png", "split": "train", "label": 0}\n{"path"\n', ":2: not valid JSON"),
        ("[1]\n", ":1: expected a JSON object"),
        ('{"path": "a.png", "split": "train", "label": false}\n', ":1: label 'False'"),
        ("", "has no rows"),
        ('{"path": "a.png", "split": "test", "label": 0}\n', "no normal images with split=train"),
    ],
)
def test_jsonl_errors_name_file_and_line(table, text, expected):
    jsonl = table.with_suffix(".jsonl")
    jsonl.write_text(text)
    message = refusal("csv", jsonl)
    assert message.startswith(str(jsonl))
    assert expected in message


def test_a_table_that_is_no_text_is_named(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"path,split,label\n\xff\xfe\n")
    assert "t.csv: cannot be read as a table" in refusal("csv", tmp_path / "t.csv")


def test_sample_sets_take_no_root(tmp_path):
    assert "takes no root" in refusal("procedural", tmp_path)


def samples(*sizes):
    """Categories a, b, ... of these sizes."""
    return [
        Sample(f"{chr(97 + c)}/{i:04d}.png", chr(97 + c), "good", 0)
        for c, size in enumerate(sizes)
        for i in range(size)
    ]


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    fraction=st.floats(0, 0.9),
    order=st.randoms(use_true_random=False),
)
def test_hold_out_divides_every_category_evenly(sizes, fraction, order):
    train = samples(*sizes)
    shuffled = list(train)
    order.shuffle(shuffled)
    fit, held_out = hold_out(shuffled, fraction)
    assert (fit, held_out) == hold_out(train, fraction)
    assert sorted([*fit, *held_out], key=lambda s: s.path) == train
    for category, total in zip("abcd", sizes, strict=False):
        held = [int(s.path[2:6]) for s in held_out if s.category == category]
        if fraction == 0 or total == 1:
            assert not held
            continue
        assert 1 <= len(held) < total
        assert len(held) in (1, total - 1) or abs(len(held) - fraction * total) <= 0.5
        gaps = [b - a for a, b in itertools.pairwise(held)]
        assert not gaps or max(gaps) - min(gaps) <= 1  # evenly spread


def test_hold_out_of_a_tenth():
    fit, held_out = hold_out(samples(20, 1), 0.1)
    assert [s.path for s in held_out] == ["a/0005.png", "a/0015.png"]
    assert len(fit) == 19


def test_content_hash_is_the_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    # the test vector of FIPS 180-2
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_hash(tmp_path / "a") == expected
    with pytest.raises(UserError, match="no: cannot be read"):
        content_hash(tmp_path / "no")


def test_fingerprint_sees_contents_and_labels_but_not_names_or_order(tmp_path):
    for name, content in {"a": b"1", "b": b"2", "c": b"2", "m": b"3", "n": b"4"}.items():
        (tmp_path / name).write_bytes(content)

    def sample(name, label=0, mask=None):
        masks = (str(tmp_path / mask),) if mask else ()
        return Sample(str(tmp_path / name), "x", "d", label, masks)

    base = fingerprint([sample("a"), sample("b")])
    assert base == fingerprint([sample("c"), sample("a")])
    others = [
        [sample("a")],
        [sample("a"), sample("a")],
        [sample("a"), sample("b", 1)],
        [sample("a"), sample("b", 1, "m")],
        [sample("a"), sample("b", 1, "n")],
    ]
    assert len({base, *(fingerprint(other) for other in others)}) == 6


@pytest.mark.parametrize(
    ("name", "train", "good", "anomalous", "masks"),
    [
        ("bottle", 209, 20, 63, 63),
        ("bsdata", 300, 100, 167, 167),
        ("aws_cookie", 31, 14, 32, 32),
        ("dobot_cubes", 92, 24, 72, 0),
    ],
)
def test_real_data_sets(shared_dir, name, train, good, anomalous, masks):
    dataset = load("mvtec", shared_dir / "data", name)
    labels = Counter(s.gt_label for s in dataset.test)
    assert (len(dataset.train), labels[0], labels[1]) == (train, good, anomalous)
    assert sum(bool(s.mask_paths) for s in dataset.test) == masks
    assert load("folder", shared_dir / "data" / name) == dataset
