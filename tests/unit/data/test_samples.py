"""The sample sets: layout, counts, determinism; the drawn one is neither trivial nor hopeless."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from invad_jax.config import DataConfig
from invad_jax.data import samples
from invad_jax.data.layouts import fingerprint, load_dataset
from invad_jax.data.masks import read_mask
from invad_jax.data.preprocess import read_image
from invad_jax.errors import UserError
from tests.unit.data.layout_trees import of_size


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield load_dataset(DataConfig(name="procedural"))


def test_procedural_counts(dataset):
    for category in ("disc", "weave"):
        test = [s for s in dataset.test if s.category == category]
        anomalous = [s for s in test if s.gt_label]
        assert sum(s.category == category for s in dataset.train) == 40
        assert (len(test) - len(anomalous), len(anomalous)) == (10, 15)
        assert len({s.defect for s in anomalous}) == 3


def test_procedural_images_are_all_different_and_of_the_stated_size(dataset):
    everything = [*dataset.train, *dataset.test]
    assert len({fingerprint([sample]) for sample in everything}) == len(everything) == 130
    with Image.open(everything[0].path) as image:
        assert image.size == (samples.SIDE, samples.SIDE)


def test_procedural_masks_are_small_and_where_the_image_is_unusual(dataset):
    """Inside the mask the image is farther from the mean normal image than outside."""
    for category in ("disc", "weave"):
        normal = np.stack(
            [
                read_image(s.path, of_size(128)).astype(float)
                for s in dataset.train
                if s.category == category
            ]
        )
        for sample in dataset.test:
            if sample.category != category or not sample.gt_label:
                continue
            mask = read_mask(sample.mask_paths, sample.path, of_size(128))
            assert 0.003 < mask.mean() < 0.12  # 50 to 2,000 pixels
            if sample.defect != "melted":  # which keeps the mean colour: a defect of texture
                distance = np.abs(read_image(sample.path, of_size(128)) - normal.mean(axis=0)).mean(
                    axis=-1
                )
                assert distance[mask].mean() > distance[~mask].mean()


def test_procedural_brightness_alone_does_not_tell(dataset):
    """Mean brightness of anomalous images lies within the range of normal ones for most."""
    for category in ("disc", "weave"):

        def means(label, category=category):
            return np.array(
                [
                    read_image(s.path, of_size(32)).mean()
                    for s in (*dataset.train, *dataset.test)
                    if s.category == category and s.gt_label == label
                ]
            )

        normal, anomalous = means(0), means(1)
        inside = (anomalous >= normal.min()) & (anomalous <= normal.max())
        assert inside.mean() > 0.7  # exposure varies by 10 %, a defect changes the mean by 1 to 3 %


def test_procedural_is_drawn_once_and_always_the_same(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path))
    again = load_dataset(DataConfig(name="procedural"))
    assert fingerprint(again.test) == fingerprint(dataset.test)
    stamp = (tmp_path / "samples" / "procedural-1").stat().st_mtime_ns
    assert samples.procedural_root() == tmp_path / "samples" / "procedural-1"
    assert (tmp_path / "samples" / "procedural-1").stat().st_mtime_ns == stamp
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["procedural-1"]


def test_hazelnut_is_extracted_from_the_archive(tmp_path, monkeypatch, caplog):
    archive = tmp_path / "otx.tar.gz"
    png = io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "PNG")
    start = "otx-2.6.0/tests/assets/anomaly_hazelnut"
    with tarfile.open(archive, "w:gz") as tar:
        for name in (
            f"{start}/train/good/00.jpg",
            f"{start}/test/good/01.jpg",
            f"{start}/test/colour/02.jpg",
            f"{start}/ground_truth/colour/02.png",
            "otx-2.6.0/setup.py",
        ):
            info = tarfile.TarInfo(name)
            info.size = len(png.getvalue())
            tar.addfile(info, io.BytesIO(png.getvalue()))
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(samples, "from_package_index", lambda *_: archive)
    with caplog.at_level("INFO"):
        dataset = load_dataset(DataConfig(name="hazelnut", categories=("hazelnut",)))
    assert "CC BY 4.0" in caplog.text
    assert [s.category for s in dataset.train] == ["hazelnut"]
    assert [(s.defect, bool(s.mask_paths)) for s in dataset.test] == [
        ("colour", True),
        ("good", False),
    ]
    assert not list((tmp_path / "cache").rglob("setup.py"))


def test_hazelnut_without_a_network_points_to_procedural(monkeypatch):
    def offline(*_):
        raise UserError("otx==2.6.0: pip could not download it")

    monkeypatch.setattr(samples, "from_package_index", offline)
    with pytest.raises(UserError, match=r"pip could not download it .*`procedural` needs no"):
        samples.hazelnut_root()
