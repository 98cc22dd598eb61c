"""What a command wrote is known, and nothing else is replaced."""

import pytest

from invad_jax.errors import UserError
from invad_jax.io import outputs

NAMES = ("table.csv", "pictures")


def test_what_was_written_is_known_with_all_that_lies_in_it(tmp_path):
    outputs.claim(tmp_path / "out", "predict", NAMES)
    out = tmp_path / "out"
    assert outputs.written_in(out) == {*NAMES, outputs.MARKER}
    assert outputs.is_written(out / "pictures" / "deep" / "a.png")
    assert not outputs.is_written(out / "photo.png")
    assert not outputs.is_written(out)


def test_a_command_may_write_again(tmp_path):
    for _ in range(2):
        outputs.claim(tmp_path, "predict", NAMES)
        (tmp_path / "table.csv").write_text("x")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_somebody_elses_is_refused_and_stays(tmp_path, name):
    (tmp_path / "pictures").mkdir()
    (tmp_path / name / "a" if name == "pictures" else tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} is there already"):
        outputs.claim(tmp_path, "predict", NAMES)
    assert not (tmp_path / outputs.MARKER).exists()


def test_what_another_command_wrote_is_refused(tmp_path):
    outputs.claim(tmp_path, "eval", ("table.csv",))
    (tmp_path / "table.csv").write_text("of eval")
    with pytest.raises(UserError, match=r"table\.csv .* not written by predict"):
        outputs.claim(tmp_path, "predict", NAMES)


def test_two_commands_share_a_folder(tmp_path):
    outputs.claim(tmp_path, "eval", ("metrics.json",))
    outputs.claim(tmp_path, "predict", NAMES)
    assert outputs.written_in(tmp_path) == {"metrics.json", *NAMES, outputs.MARKER}


def test_an_empty_folder_and_a_folder_that_is_trusted_are_taken(tmp_path):
    (tmp_path / "pictures").mkdir()
    outputs.claim(tmp_path, "predict", NAMES)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "table.csv").write_text("of an older version")
    outputs.claim(tmp_path / "old", "predict", NAMES, trusted=True)


def test_a_file_as_folder_is_one_line(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        outputs.claim(tmp_path / "f", "predict", NAMES)


@pytest.mark.parametrize("content", ["", "[]", '{"predict": 3}', '{"predict": [1]}', "\x00"])
def test_a_marker_that_says_nothing_gives_no_right(tmp_path, content):
    (tmp_path / outputs.MARKER).write_text(content)
    (tmp_path / "table.csv").write_text("mine")
    assert outputs.written_in(tmp_path) == frozenset()
    with pytest.raises(UserError):
        outputs.claim(tmp_path, "predict", NAMES)
