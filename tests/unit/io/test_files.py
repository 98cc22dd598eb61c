"""Files of settings, holds, and paths that are none."""

import contextlib
import os
import random

import pytest
import yaml

from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.io.yaml_format import read_yaml


def written(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def bomb(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merges(levels):
    lines = ["a0: &a0 {x: 1, y: 2, z: 3}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [bomb(12), merges(12), "a: &x [1, 2]\nb: *x", "a: &a [*a]", "a: &a {b: {c: *a}}",
     "[" * 1000, "- " * 1000 + "x",
     "{" * 1000, "a: !!python/object/apply:os.system [true]", "a: !!timestamp x", "a: !!int ''",
     "a: !!bool maybe", "? [a]\n: b", "a: 2001-99-99", "a: b: c", "\t", "--- 1\n--- 2",
     "a: " + "x" * 300_000, "a: \x07", "!!binary ?"],
)  # fmt: skip
def test_yaml_that_is_no_settings_is_one_line(tmp_path, text):
    with pytest.raises(UserError) as caught:
        read_yaml(written(tmp_path, text))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["a: &x [1, 2]", "{a: {b: [1, 2.5, x, null, true]}}", ""])
def test_plain_yaml_is_what_pyyaml_reads(tmp_path, text):
    assert read_yaml(written(tmp_path, text)) == yaml.safe_load(text)


def test_any_text_is_yaml_or_one_line(tmp_path):
    rng = random.Random(0)
    tokens = ["&a ", "*a", "[", "]", "{", "}", ": ", "- ", "\n", "  ", "x", "1", "!!int ", "<<",
              "? ", "'", '"', "|", "#", "%", "2001-01-01", "---", ", "]  # fmt: skip
    for _ in range(300):
        text = "".join(rng.choices(tokens, k=rng.randrange(1, 25)))
        try:
            expected = yaml.safe_load(text)
        except Exception:
            expected = None
        with contextlib.suppress(UserError):
            assert read_yaml(written(tmp_path, text)) == expected


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "\xff", "1e5x"])
def test_json_that_is_none_is_one_line(tmp_path, text):
    with pytest.raises(UserError, match="not valid JSON"):
        files.read_json(written(tmp_path, text))


def test_what_has_no_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero", tmp_path / "absent"):
        with pytest.raises(UserError, match="cannot be read"):
            files.read_bytes(path)
