"""Checkpoints in a bucket: how orbax commits there, and how it reaches S3.

A bucket has no atomic rename, so a step, and each part of it, is committed by an object
`commit_success.txt` that is written last; what has none counts as never written. Arrays go through
tensorstore's own drivers. Orbax hands it `gs://`, but takes `s3://` for a folder (0.12 and 0.13),
so it is told here; `tests/e2e/test_buckets.py` would notice a release that needs other words.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from invad_jax.io.paths import is_remote


def commit_options(directory: Path) -> ocp.options.AtomicityOptions | None:
    """How a step of this folder is committed; None: by the rename of a disk."""
    if not is_remote(directory):
        return None
    if directory.scheme == "s3":
        _teach_s3()
    return ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE)


def _teach_s3() -> None:
    tensorstore_utils._use_gcs_driver = is_remote
    tensorstore_utils._normalize_path = lambda path: (
        path.rstrip("/") if is_remote(path) else os.path.normpath(path)
    )
    gcs_utils.get_kvstore_for_gcs = _kvstore


def _kvstore(path: str) -> dict[str, Any]:
    """What tensorstore calls a path."""
    scheme, _, rest = str(path).partition("://")
    bucket, _, inside = rest.partition("/")
    if scheme == "gs":
        return {"driver": "gcs", "bucket": bucket, "path": inside}
    known = {
        "endpoint": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        "aws_region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
    }
    given = {name: value for name, value in known.items() if value}
    return {"driver": "s3", "bucket": bucket, "path": inside, **given}
