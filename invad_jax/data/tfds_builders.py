"""Builders of TensorFlow Datasets (TFDS) that write any layout as ArrayRecord, without TensorFlow.

`python -m invad_jax.build_dataset` is the short way. The way of TFDS works too; where no `root` is
given, the files are expected in its manual folder:

    import tensorflow_datasets as tfds
    import invad_jax.data.tfds_builders  # registers the names
    builder = tfds.builder("visa", data_dir="prepared")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="/data/VisA")
    )
    builder.as_data_source("test")[0]["image"]  # the bytes of the file

What is read back by `data.name=tfds` is the folder `builder.data_dir`.

Files are kept as they are, byte by byte: what an image is (`preprocess.py`) is decided when it is
read, the same way from a folder and from records. Read next: `records.py`, which reads them.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from invad_jax.config import DataConfig
from invad_jax.data.layouts import Sample, load_dataset
from invad_jax.data.masks import union
from invad_jax.data.records import Row, open_binary
from invad_jax.data.samples import SAMPLE_SETS
from invad_jax.errors import UserError
from invad_jax.io.paths import size_of

Example = dict[str, Any]


class _Part(NamedTuple):
    """What is written as one split."""

    split: str
    samples: tuple[Sample, ...]
    base: str
    """What is cut off from the paths of the samples."""


class AnomalyImages(tfds.core.GeneratorBasedBuilder):
    """Any data set that `layouts.py` can list; by default a plain folder of one product."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the data set there as its authors distribute it, unpacked."
    LAYOUT: ClassVar[str] = "folder"
    """The `data.name` of what is read."""
    url_infos = None  # nothing is downloaded; TFDS would want importlib_resources to look for some

    def __init__(
        self,
        *,
        layout: str | None = None,
        root: str = "",
        categories: Sequence[str] = ("all",),
        **kwargs: Any,
    ):
        """A builder; nothing is read yet.

        Args:
          layout: another `data.name` than that of the class.
          root: `data.root`; empty takes the manual folder of TFDS.
          categories: `data.categories`.
          **kwargs: of a TFDS builder, as `data_dir`.
        """
        self._data = DataConfig(layout or self.LAYOUT, root, tuple(categories))
        super().__init__(**{"file_format": "array_record", **kwargs})

    def _info(self) -> tfds.core.DatasetInfo:
        file = tfds.features.Scalar(np.object_)  # bytes
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images of normal products to train on; normal and anomalous ones to test.",
            features=tfds.features.FeaturesDict(
                {
                    "image": file,
                    "mask": file,  # empty: nothing is anomalous, or it is not known what is
                    "label": tfds.features.ClassLabel(names=["normal", "anomalous"]),
                    "defect": tfds.features.Text(),
                    "category": tfds.features.Text(),
                    "path": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,  # the order of the samples is that of the layout
            metadata=tfds.core.MetadataDict(samples={}),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, Example]]]:
        return {part.split: self._generate_examples(part) for part in self._parts(dl_manager)}

    def _parts(self, dl_manager: tfds.download.DownloadManager) -> list[_Part]:
        """The splits that have samples: TFDS refuses an empty one."""
        data = self._data
        if not data.root and data.name not in SAMPLE_SETS:
            data = DataConfig(data.name, str(dl_manager.manual_dir), data.categories)
        dataset = load_dataset(data)
        base = common_folder([*dataset.train, *dataset.test])
        parts = (_Part("train", dataset.train, base), _Part("test", dataset.test, base))
        return [part for part in parts if part.samples]

    def _generate_examples(self, part: _Part) -> Iterator[tuple[int, Example]]:
        """Reads one sample after the other, and lists it in the metadata."""
        rows: list[Row] = []
        self.info.metadata["samples"][part.split] = rows
        for i, sample in enumerate(part.samples):
            image = _content(sample.path)
            mask = _mask_content(sample.mask_paths, self._data)
            rows.append(
                Row(
                    path=_name(sample.path, part.base),
                    category=sample.category,
                    defect=sample.defect,
                    label=sample.gt_label,
                    sha256=hashlib.sha256(image).hexdigest(),
                    mask=_name(sample.mask_paths[0], part.base) if mask else None,
                    mask_sha256=hashlib.sha256(mask).hexdigest() if mask else None,
                )
            )
            fields = {name: rows[-1][name] for name in ("label", "defect", "category", "path")}
            yield i, {"image": image, "mask": mask, **fields}

    def _generate_splits(
        self, dl_manager: tfds.download.DownloadManager, download_config: Any
    ) -> list[tfds.core.SplitInfo]:
        """Writes record after record; TFDS would keep a split in memory, or need TensorFlow."""
        shard_config = download_config.get_shard_config()
        most = download_config.max_examples_per_split
        return [
            self._write(part._replace(samples=part.samples[:most]), shard_config)
            for part in self._parts(dl_manager)
        ]

    def _write(self, part: _Part, shard_config: Any) -> tfds.core.SplitInfo:
        count, num_bytes = len(part.samples), sum(map(_size, part.samples))
        num_shards = shard_config.get_number_shards(num_bytes, count)
        bounds = [count * i // num_shards for i in range(num_shards + 1)]
        lengths = [end - start for start, end in itertools.pairwise(bounds)]
        template, writer = self._get_filename_template(part.split), self._example_writer()
        examples = iter(
            tfds.core.utils.tqdm(
                self._generate_examples(part), desc=part.split, total=count, unit=" images"
            )
        )
        for shard, length in enumerate(lengths):
            path = template.sharded_filepath(shard_index=shard, num_shards=num_shards)
            writer.write(path, self._serialized(itertools.islice(examples, length)))
        return tfds.core.SplitInfo(
            name=part.split, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template
        )

    def _serialized(self, examples: Iterable[tuple[int, Example]]) -> Iterator[tuple[int, bytes]]:
        for key, example in examples:
            yield key, self.info.features.serialize_example(example)


class MvtecAd(AnomalyImages):
    """MVTec AD: 15 categories (Bergmann et al. 2019)."""

    LAYOUT = "mvtec"


class Mpdd(AnomalyImages):
    """MPDD: 6 categories of painted metal parts (Jezek et al. 2021)."""

    LAYOUT = "mvtec"


class Visa(AnomalyImages):
    """VisA: 12 categories (Zou et al. 2022)."""

    LAYOUT = "visa"


class Bmad(AnomalyImages):
    """BMAD: 6 sets of medical images, 3 of them with masks (Bao et al. 2024)."""

    LAYOUT = "bmad"


BENCHMARKS: dict[str, type[AnomalyImages]] = {
    "mvtec": MvtecAd,
    "mpdd": Mpdd,
    "visa": Visa,
    "bmad": Bmad,
}
"""The builders that have a name of their own."""


def common_folder(samples: Iterable[Sample]) -> str:
    """What all paths of images and masks begin with, up to a slash.

    Only a common beginning may be cut off: the names must sort as the paths did, since what is held
    out of the training depends on that.

    >>> common_folder([Sample("/data/nut/a/1.png", "", "", 0), Sample("/data/nuts/1", "", "", 0)])
    '/data/'
    """
    paths = [path for s in samples for path in (s.path, *s.mask_paths)]
    folders = [path[: path.rfind("/") + 1] for path in paths]
    common = os.path.commonprefix(folders)  # noqa: RUF071, the strings themselves are meant
    return common[: common.rfind("/") + 1]


def _name(path: str, base: str) -> str:
    name = path.removeprefix(base)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{path!r}: the name of the file is not UTF-8; rename it") from None
    return name


def _content(path: str) -> bytes:
    try:
        with open_binary(path) as stream:
            return stream.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _mask_content(paths: Sequence[str], data: DataConfig) -> bytes:
    """The file of a mask; of several that an image has, one that marks what they mark together."""
    if len(paths) <= 1:
        return _content(paths[0]) if paths else b""
    stream = io.BytesIO()
    Image.fromarray(union(paths, data)).save(stream, "PNG")
    return stream.getvalue()


def _size(sample: Sample) -> int:
    """Bytes of the files on disk, about those of the record."""
    try:
        return sum(size_of(path) for path in (sample.path, *sample.mask_paths))
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from error
