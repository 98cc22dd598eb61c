"""Images that are there twice count once, and what is trained and tested is named."""

import logging

from invad_jax.data import copies
from tests.unit.data.layout_trees import load


def folder_of(tmp_path, **contents):
    """A data set in folders: path with `__` for `/` -> content."""
    for name, content in contents.items():
        path = tmp_path / (name.replace("__", "/") + ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def names_of(samples):
    return [sample.path.rsplit("/", 1)[1] for sample in samples]


def test_copies_of_a_training_image_count_once_and_are_named(tmp_path, caplog):
    root = folder_of(
        tmp_path,
        nut__train__good__a=b"one", nut__train__good__b=b"two", nut__train__good__c=b"one",
        nut__train__good__d=b"longer", bolt__train__good__e=b"one", nut__test__bad__f=b"two!",
    )  # fmt: skip
    with caplog.at_level(logging.INFO):
        dataset = load("mvtec", root)
    assert names_of(dataset.train) == ["e.png", "a.png", "b.png", "d.png"]  # e is of another kind
    assert [(file.reason, file.path[-5:]) for file in dataset.left_out] == [
        (copies.REASON, "c.png")
    ]
    assert "copies of other training images, which count once: 1" in caplog.text
    assert "training images too" not in caplog.text


def test_a_test_image_that_is_trained_on_is_named_and_stays(tmp_path, caplog):
    root = folder_of(
        tmp_path,
        nut__train__good__a=b"one", nut__train__good__b=b"two",
        nut__test__good__x=b"one", nut__test__bad__y=b"new", nut__test__bad__z=b"new",
    )  # fmt: skip
    dataset = load("mvtec", root)
    assert len(dataset.test) == 3
    assert "test images that are training images too: 1" in caplog.text
    assert "x.png" in caplog.text


def test_only_files_of_equal_size_are_read(tmp_path, monkeypatch):
    root = folder_of(tmp_path, train__good__a=b"1", train__good__b=b"22", train__good__c=b"33")
    read = []
    real = copies.content_hash
    monkeypatch.setattr(copies, "content_hash", lambda path: read.append(path[-5:]) or real(path))
    assert len(load("mvtec", root).train) == 3
    assert sorted(read) == ["b.png", "c.png"]  # each once


def test_empty_files_are_not_each_other_s_copies(tmp_path):
    root = folder_of(tmp_path, train__good__a=b"", train__good__b=b"")
    assert len(load("mvtec", root).train) == 2  # whoever reads them says what is wrong
