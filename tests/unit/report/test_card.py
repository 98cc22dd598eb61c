"""The card says what is known, and that something is not known."""

import json

from invad_jax.config import Config
from invad_jax.config.io import to_dict
from invad_jax.report.card import model_card

ABOUT = {
    "workdir": "screws",
    "step": 300,
    "exported": "2026-11-29T05:00:00+00:00",
    "metrics": None,
    "made_by": {"invad_jax": "0.1.0", "jax": "0.12.0"},
    "made_of": {"dataset": None},
    "licences": {"code": "Apache-2.0", "images (mvtec)": "not known to invad_jax"},
    "calibration": {"bolt": {"threshold": 4.25, "num_normals": 40, "false_positive_rate": 0.01}},
    "config": to_dict(Config()),
}


def test_a_card_has_a_header_and_everything_below_it():
    _, head, body = model_card(ABOUT, "part.invad").split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in head.splitlines())
    assert json.loads(fields["license"]) == "other"
    assert "anomaly-detection" in json.loads(fields["tags"])
    for said in (
        "# screws",
        "at step 300",
        "--model DIR/part.invad",
        "`not known`",
        "nobody has evaluated",
        "- bolt: threshold 4.25 by 40 normal images",
        "of 1 %",
        "- images (mvtec): not known",
    ):
        assert said in body
    assert json.loads(body.split("```json\n")[1].split("```")[0]) == ABOUT["config"]


def test_metrics_stand_beside_their_command():
    row = dict.fromkeys(("i_auroc", "i_ap", "i_f1_max", "p_auroc", "p_ap", "p_f1_max"), 0.912)
    row |= {"aupro": None, "mad": None, "n_normal": 3, "n_anomalous": 4}
    card = model_card(ABOUT | {"metrics": {"categories": {"bolt": row}, "mean": row}}, "")
    assert "invad_jax.eval --workdir screws" in card
    assert "91.2" in card
    assert "--model DIR " in card
