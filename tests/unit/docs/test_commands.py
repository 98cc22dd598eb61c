"""Every command in the pages is one that its own parser takes, with options that exist.

A shell reads the blocks, so loops, variables and line breaks are its own; it finds no program and
writes down what it was asked for.
"""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from invad_jax.config import Config, io, option_names
from invad_jax.errors import UserError
from invad_jax.sweeps.grid import parse_axes
from tests.commands import PROJECT, parsed

PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")])
MODULES = sorted([*PROJECT.glob("configs/**/*.py"), *PROJECT.glob("invad_jax/*.py")])
FENCE = re.compile(r"^```(.*)\n((?s:.*?))^```", re.M)
INDENTED = re.compile(r"^    (.*python -m invad_jax.*)", re.M)
OF_THEN = re.compile(r"# (?:at|of) commit [0-9a-f]{7}")
"""Begins a block of commands that another commit had."""
HISTORY = ("CHANGELOG.md", "DECISIONS.md")
"""Say what was, too."""
FILES = (".py", ".json", ".npz", ".md", ".safetensors")
OURS = io.load(PROJECT / "configs" / "folder.py")
# One write a command, which a newline would cut: those of a pipe speak at the same time.
RECORDER = r"""
command_not_found_handle() { printf '%s\0' "$@" $'\x1e' >&3; }
PATH=/nowhere
"""


def names(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def blocks(source: Path) -> list[str]:
    """Shell of a page, or in the docstring of a module."""
    if source.suffix == ".py":
        text = ast.get_docstring(ast.parse(source.read_text())) or ""
        return INDENTED.findall(text.replace("\\\n", " "))
    return [text for language, text in FENCE.findall(source.read_text()) if language == "sh"]


def spoken(source: Path, folder: Path) -> list[list[str]]:
    """The commands of a source, as a shell understands them."""
    # a name with a slash would be looked for in the folder
    texts = [t.replace("launch/", "") for t in blocks(source) if not OF_THEN.match(t)]
    script = "\n".join([f"exec 3>>{folder}/spoken", RECORDER, *texts])
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert "syntax error" not in done.stderr, done.stderr
    commands = (folder / "spoken").read_text().split("\x1e\0")
    return [command.split("\0")[:-1] for command in commands[:-1]]


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """Verb and arguments, where it is a command of ours; else None."""
    for i, (before, word) in enumerate(zip(["", *words], words, strict=False)):
        if before == "-m" and word.startswith("invad_jax."):
            return word.removeprefix("invad_jax."), words[i + 1 :]
        if before == "invad" or before.endswith(".sbatch"):
            return word, words[i + 1 :]
        if word in ("run", "all") and before.endswith(".sh"):
            return words[i + 1], words[i + 2 :]
    return None


def check(verb: str, arguments: list[str]) -> None:
    args = parsed(verb, [word for word in arguments if word != "..."])
    path = getattr(args, "config", None)
    config = Config() if path in (None, "configs/X.py") else io.load(PROJECT / path)
    io.assign(config, getattr(args, "set", []))
    if verb == "sweep":
        parse_axes(args.over, config)


@pytest.mark.parametrize("source", [*PAGES, *MODULES], ids=names)
def test_commands_are_what_their_parsers_take(source: Path, tmp_path: Path):
    for words in spoken(source, tmp_path):
        try:
            check(*ours(words)) if ours(words) else None
        except UserError as error:
            pytest.fail(f"{shlex.join(words)}: {error}")
        if words[0] == "make":
            targets = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.M)
            assert set(words[1:]) <= set(targets), words


def test_no_command_hides_from_the_shell():
    """And the shell hears most of them."""
    heard = 0
    for page in PAGES:
        text = FENCE.sub(lambda m: "" if m[1] == "sh" else m[0], page.read_text())
        assert not re.search(r"^ *(\$ )?(python -m invad_jax\.|invad [a-z]+ -)", text, re.M), page
        heard += sum(block.count("invad_jax.") for block in blocks(page))
    assert heard > 45  # 48 on 2026-11-29


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in HISTORY], ids=names)
def test_options_in_sentences_exist(page: Path):
    option = rf"`(?:--set )?((?:{'|'.join(vars(OURS))})\.[a-z_]+)(?:=([^`\s]*))?`"
    for name, values in re.findall(option, page.read_text()):
        assert name in option_names() or name.endswith(FILES), name
        for value in values.split("|"):
            if not re.fullmatch(r"[A-Z]*|\.\.\.", value):
                io.assign(OURS, [f"{name}={value}"])
