"""The fit, its folds, and its file."""

import numpy as np
import pytest

from invad_jax.errors import UserError
from invad_jax.normality import whitening
from invad_jax.normality.image_bank import BankCollector, bank_of
from invad_jax.normality.whitening import FittedCoordinates

REST = np.random.default_rng(0).standard_normal((24, 2, 3, 4)).astype(np.float32)
LABELS = ["nut"] * 14 + ["pin"] * 10


def test_what_is_left_after_a_mean_is_whitened_about_zero():
    fitted = whitening.fit(REST + 1, LABELS, identity=1.0, centred=False)
    assert not fitted.mean.any()
    nuts = (REST[:14] + 1).reshape(14, 6, 4).astype(np.float64)
    second = np.einsum("npc,npd->pcd", nuts, nuts) / 14
    variance = np.trace(second, axis1=1, axis2=2).mean() / 4
    W = fitted.projection[0, 0].reshape(6, 4, 4).astype(np.float64)
    whitened = W @ (second + variance * np.eye(4)) @ np.swapaxes(W, 1, 2)
    np.testing.assert_allclose(whitened, np.broadcast_to(np.eye(4), (6, 4, 4)), atol=1e-5)
    assert fitted.name.tolist() == ["nut", "pin"]


def test_each_image_is_whitened_by_what_was_learnt_without_it():
    parts = list(whitening.cross_fitted(REST, LABELS, identity=1.0, centred=True))
    rows = np.concatenate([rows for rows, _ in parts])
    assert sorted(rows.tolist()) == list(range(24))
    kind = np.array(LABELS)
    for rows, fitted in parts:
        others = np.setdiff1d(np.arange(24), rows)
        for k, name in enumerate(("nut", "pin")):
            expected = REST[others[kind[others] == name]].mean(axis=0)
            np.testing.assert_allclose(fitted.mean[k, 0], expected, atol=1e-6)  # float32


def test_of_two_images_nothing_is_left_out():
    ((rows, fitted),) = whitening.cross_fitted(REST[:2], ["a", "a"], identity=1.0, centred=True)
    assert rows.tolist() == [0, 1]
    assert np.isfinite(fitted.projection).all()


@pytest.mark.parametrize("with_bank", [True, False])
def test_round_trip_and_damage(tmp_path, with_bank):
    path = tmp_path / "coordinates.npz"
    fitted = FittedCoordinates(
        whitening.fit(REST, LABELS, identity=1.0, centred=True),
        bank_of(REST, np.zeros(24, int)) if with_bank else None,
    )
    whitening.write(path, fitted, {"dataset": "abc"})
    again, key = whitening.read(path)
    assert key == {"dataset": "abc"}
    assert again.component_names == ("nut", "pin")
    assert (again.bank is not None) == with_bank
    np.testing.assert_array_equal(again.gaussians.projection, fitted.gaussians.projection)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"coordinates\.npz: cannot be read"):
        whitening.read(path)


def test_a_bank_is_collected_from_what_passes_by():
    collector = BankCollector()
    batches = [REST[:10, None], REST[10:, None]]
    assert all(a is b for a, b in zip(collector.watch("nut", batches), batches, strict=True))
    bank = collector.fit()
    np.testing.assert_allclose(bank.latent, REST, rtol=1e-3)  # float16
    np.testing.assert_allclose(np.linalg.norm(bank.descriptor, axis=1), 1, rtol=1e-6)
