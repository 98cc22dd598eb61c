"""Every way of scoring from the same workdir: what eval writes of it, and that predict agrees."""

import json
import shutil

import pytest

from tests.commands import read_csv

CATEGORY = "category"
WAYS = {
    "padim": (["inversion.paradigm=padim"], 0, ["map_max"], CATEGORY),
    "nearest_neighbour": (["inversion.paradigm=nearest_neighbour"], 0, ["map_max"], CATEGORY),
    "fitted": (["scoring.prior=fitted"], 3, ["map_top"], CATEGORY),
    "cluster": (["scoring.components=cluster"], 3, ["map_top"], "cluster "),
    "retrieval": (["inversion.paradigm=retrieval"], 0, ["map_top"], ""),
    "residual": (["inversion.paradigm=residual", "inversion.noise_ratio=0.2"], 1, ["map_top"],
                 CATEGORY),
    "residual_alone": (["inversion.paradigm=residual", "scoring.prior=standard_normal"], 1,
                       ["map_top"], ""),
    "chosen_terms": (["scoring.terms=nll,map_max"], 3, ["nll", "map_max"],
                     CATEGORY),
    "published": (["scoring.prior=standard_normal"], 3, ["nll", "map_range"], ""),
    "not_inverted": (["inversion.num_steps=0", "scoring.prior=standard_normal"], 0,
                     ["nll", "map_range"], ""),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_eval_and_predict(commands, trained, tmp_path, way):
    options, nfe, terms, component = WAYS[way]
    common = ["--workdir", str(trained), "--set", *options]
    said = commands.here("eval", *common, "--no-speed", "--out", str(tmp_path / "eval")).stderr
    as_one = "one scale and one threshold for all of disc, weave: they are not told"
    assert (as_one in said) == (component == "")

    payload = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert (payload["nfe"], payload["terms"]) == (nfe, terms)
    assert all(0 <= t["mean"]["i_auroc"] <= 1 for t in payload["fusion"].values())
    rows = read_csv(tmp_path / "eval" / "scores.csv")
    named = {row["component"] for row in rows}
    if component == CATEGORY:
        assert named <= {row["category"] for row in rows}
        right = [row["component"] == row["category"] for row in rows if row["defect"] == "good"]
        assert sum(right) > 0.9 * len(right)  # shapes that any encoder tells apart
    else:
        assert named
        assert all(name.rstrip("0123456789") == component for name in named)

    some = [rows[i] for i in (0, len(rows) // 2, len(rows) - 1)]
    (tmp_path / "new").mkdir()
    for i, row in enumerate(some):
        shutil.copy(row["path"], tmp_path / "new" / f"{i}.png")
    arguments = ["--input", str(tmp_path / "new"), "--out", str(tmp_path / "decided")]
    commands.here("predict", *common, *arguments)
    predictions = read_csv(tmp_path / "decided" / "predictions.csv")
    assert len(predictions) == 3
    for prediction, row in zip(predictions, some, strict=True):
        # One compiled function and the same batch size; the neighbours in the batch differ.
        expected = pytest.approx(float(row["image_score_calibrated"]), rel=1e-4, abs=1e-4)
        assert float(prediction["image_score"]) == expected
        assert prediction["component"] == row["component"]
        assert prediction["threshold"] == row["threshold"]


@pytest.mark.parametrize("options", [[], ["inversion.num_steps=2"]])
def test_one_category_alone_is_judged_as_among_all(commands, trained, tmp_path, options):
    """Also under options that nobody has calibrated: all categories of the training are learnt."""
    common = ["eval", "--workdir", str(trained), "--no-speed", "--out"]
    one = ["--set", "data.categories=disc", *options]
    commands.here(*common, str(tmp_path / "one"), *one)
    commands.here(*common, str(tmp_path / "all"), *(["--set", *options] if options else []))
    rows = read_csv(tmp_path / "all" / "scores.csv")
    among = [row for row in rows if row["category"] == "disc"]
    assert len(among) < len(rows)
    for ours, theirs in zip(read_csv(tmp_path / "one" / "scores.csv"), among, strict=True):
        for name in ("path", "component", "threshold"):
            assert ours[name] == theirs[name]
        expected = pytest.approx(float(theirs["image_score_calibrated"]), rel=1e-4, abs=1e-4)
        assert float(ours["image_score_calibrated"]) == expected  # the batch differs


def test_a_test_image_that_cannot_be_read_is_left_out_and_named(commands, trained, tmp_path):
    (whole,) = (commands.folder / "cache" / "samples").glob("procedural-*")
    shutil.copytree(whole, tmp_path / "data")
    broken = sorted((tmp_path / "data" / "disc" / "test").glob("*/*.png"))[0]
    broken.write_bytes(broken.read_bytes()[:40])
    options = ["--set", "data.name=mvtec", f"data.root={tmp_path / 'data'}"]
    out = tmp_path / "eval"
    done = commands.here(
        "eval", "--workdir", str(trained), "--no-speed", "--out", str(out), *options, status=1
    )
    assert "test images that cannot be read, left out: 1" in done.stderr
    assert json.loads((out / "metrics.json").read_text())["unreadable"] == [str(broken)]
    paths = {row["path"] for row in read_csv(out / "scores.csv")}
    assert paths == {str(p) for p in tmp_path.glob("data/*/test/*/*.png")} - {str(broken)}
