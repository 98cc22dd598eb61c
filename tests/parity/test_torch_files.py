"""Published checkpoints there and back, read by torch itself."""

import pytest

from invad_jax.convert import cli

torch = pytest.importorskip("torch", reason="torch is the oracle")
OPTIONS = {"dit": (), "mlp": (), "unet": ("--head-channels", "16")}


@pytest.mark.parametrize("kind", OPTIONS)
def test_there_and_back_is_bit_exact(golden_dir, tmp_path, kind):
    folder, workdir, back = (
        golden_dir / f"official_{kind}",
        str(tmp_path / "run"),
        tmp_path / "back",
    )
    published = ["--from", "invad-pytorch", "--input", str(folder), "--workdir", workdir]
    assert cli([*published, *OPTIONS[kind]]) == 0
    assert cli(["--to", "invad-pytorch", "--workdir", workdir, "--output", str(back)]) == 0
    original = torch.load(folder / "model_latest.pth", weights_only=True)
    for name in ("model_latest.pth", "model_ema_latest.pth"):
        found = torch.load(back / name, weights_only=True)
        assert found.keys() == original.keys()
        assert all(torch.equal(found[key], original[key]) for key in original)
