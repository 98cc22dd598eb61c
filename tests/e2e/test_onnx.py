"""The ONNX file, by onnxruntime, where jax2onnx is installed (`docs/export.md`)."""

import sys

import numpy as np
import pytest

from invad_jax.inference.predictor import load


def test_without_the_converter_one_line_says_so(commands, white, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    arguments = ["export", "--workdir", str(white), "--onnx", "x.onnx"]
    assert "wants an environment of its own" in commands.refused(*arguments)


def test_onnxruntime_decides_as_the_workdir(commands, white, photographs, tmp_path):
    pytest.importorskip("jax2onnx", reason="jax2onnx wants an environment of its own")
    import onnxruntime

    from invad_jax.data import preprocess

    path = tmp_path / "part.onnx"
    commands.here("export", "--workdir", str(white), "--onnx", str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    trained = load(white)
    expected = trained.predict(map(str, photographs))
    for i, photograph in enumerate(photographs):
        image = preprocess.read_image(photograph, trained.config.data)
        found = dict(zip(names, session.run(None, {"image": image[None]}), strict=True))
        # Products in another order, of another library.
        assert found["image_score"][0] == pytest.approx(expected.image_score[i], abs=1e-4)
        assert found["decision"][0] == expected.decision[i]
        np.testing.assert_allclose(found["anomaly_map"][0], expected.anomaly_map[i], atol=1e-4)
