"""Folders that are repositories of the Hugging Face hub, by its own library (the extra [hub]).

`HF_TOKEN` or `hf auth login` says who is asking, `HF_ENDPOINT` which hub is asked. What is fetched
is JSON, arrays and pictures: of anything else that lies in a repository nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from invad_jax.errors import UserError

CARD = "README.md"
OF_WORKDIR = (
    *("config.json", "components.npz", "coordinates.npz", "region.png"),
    *("normals/*.json", "normals/*.npz", "encoder/*.json", "encoder/*.safetensors"),
    "checkpoints/*",
)
"""What a workdir consists of, with the patterns of the hub: `*` goes into folders."""
PARTS = ("*.invad", *OF_WORKDIR)
"""The same, or a bundle."""


def push(folder: Path, repo: str, public: bool) -> str:
    """Makes a repository of models hold the files of a folder, and nothing else of `PARTS`.

    Args:
      folder: on this machine.
      repo: `owner/name`; made if it is not there.
      public: whether one that is made can be seen by all.

    Returns:
      Its address.

    Raises:
      UserError: the library is not installed, or the hub does not take it.
    """
    with _asking(repo) as api:
        url = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="A detector, by invad_jax",
            delete_patterns=list(PARTS),
        )
        return str(url)


def pull(repo: str, revision: str | None, folder: Path) -> None:
    """Fetches the parts of a detector into a folder that is empty.

    Args:
      repo: `owner/name`.
      revision: branch, tag or commit; None: the newest.
      folder: on this machine.

    Raises:
      UserError: the library is not installed, the hub does not give it, or it holds no detector.
    """
    with _asking(repo) as api:
        wanted = [CARD, *PARTS]
        api.snapshot_download(repo, revision=revision, local_dir=folder, allow_patterns=wanted)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the library's notes on its downloads
    if not (folder / "config.json").is_file() and len(list(folder.glob("*.invad"))) != 1:
        raise UserError(f"--repo {repo}: holds no detector of invad_jax")


@contextmanager
def _asking(repo: str) -> Iterator[Any]:
    """Yields the library's client, and turns what it raises into one line."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError('huggingface_hub is not installed: pip install "invad-jax[hub]"') from error
    try:
        endpoint = os.environ.get("HF_ENDPOINT")  # the library reads it once, when it is imported
        yield huggingface_hub.HfApi(endpoint, library_name="invad-jax")
    except Exception as error:  # of a network, and of what lies behind it, anything may come
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"--repo {repo}: {reason}. Without a way to the hub, carry the file that `export` "
            "writes, or the workdir, by hand"
        ) from error
