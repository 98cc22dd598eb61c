"""The grid of a sweep, what its results become, and what the user may get wrong."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from jax._src import xla_bridge
from matplotlib.figure import Figure
from PIL import Image

from invad_jax import sweep
from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.data import layouts
from invad_jax.data.dataset import Sample
from invad_jax.errors import UserError
from invad_jax.report.tables import COUNTS, METRICS
from invad_jax.sweeps import table
from invad_jax.sweeps.grid import make_cells, parse_axes, parse_seeds

PROJECT = Path(__file__).resolve().parents[3]
STEPS, PARADIGM = "inversion.num_steps=1,3,5", "inversion.paradigm=inversion,reconstruction"


def cells_of(*texts, seeds=(0,), base=None):
    base = base or Config()
    return make_cells(base, parse_axes(texts, base), seeds)


def test_every_combination_is_a_point_and_names_its_config():
    cells = cells_of(STEPS, "inversion.spacing=linspace,paper", seeds=(0, 4))
    assert [(cell.values, cell.seed) for cell in cells] == [
        ((steps, spacing), seed)
        for steps in ("1", "3", "5") for spacing in ("linspace", "paper") for seed in (0, 4)
    ]  # fmt: skip
    last = cells[-1].config
    assert (last.inversion.num_steps, last.inversion.spacing, last.train.seed) == (5, "paper", 4)


def test_options_that_a_paradigm_does_not_use_make_no_points_of_it():
    cells = cells_of(STEPS, PARADIGM, "inversion.noise_ratio=0.25,0.75", "scoring.prior=fitted")
    values = [cell.values for cell in cells]
    assert len(values) == len(set(values)) == 3 + 3 * 2
    assert ("3", "inversion", None, "fitted") in values
    assert ("3", "reconstruction", "0.75", None) in values
    unused = {c.config.inversion.noise_ratio for c in cells if c.values[1] == "inversion"}
    assert unused == {Config().inversion.noise_ratio}


def test_another_teacher_is_another_training():
    base = override(Config(), ["train.objective=one_step", "train.teacher=runs/a"])
    cells = cells_of("train.teacher=runs/a,runs/b", base=base)
    assert len({cell.run for cell in cells}) == 2
    assert cells[1].training == ("train.teacher=runs/b", "train.seed=0")


def test_baselines_that_ask_no_denoiser_are_one_point_each():
    base = override(Config(), ["scoring.prior=fitted"])
    cells = cells_of(
        "inversion.paradigm=padim,nearest_neighbour", "scoring.components=category,one",
        "scoring.terms=[map_max],[nll]", base=base,
    )  # fmt: skip
    assert [cell.values for cell in cells] == [
        ("padim", components, terms)
        for components in ("category", "one") for terms in ("[map_max]", "[nll]")
    ] + [
        ("nearest_neighbour", None, terms) for terms in ("[map_max]", "[nll]")
    ]  # fmt: skip


def test_the_papers_prior_has_no_components():
    cells = cells_of("scoring.prior=standard_normal,fitted", "scoring.components=one,cluster")
    assert [cell.values for cell in cells if cell.values[0] == "standard_normal"] == [
        ("standard_normal", None)
    ]
    assert len(cells) == 1 + 2


def test_sizes_that_a_network_does_not_read_make_no_models_of_it():
    cells = cells_of("denoiser.name=dit,unet", "denoiser.num_res_blocks=1,3")
    assert [cell.values for cell in cells] == [("dit", None), ("unet", "1"), ("unet", "3")]
    assert [cell.run for cell in cells][:2] == [
        "seed=0", "denoiser.name=unet,denoiser.num_res_blocks=1,seed=0"
    ]  # fmt: skip


def test_the_paradigm_of_the_base_counts_where_it_is_not_swept():
    with pytest.raises(UserError, match=r"--over inversion\.noise_ratio: would have no effect"):
        cells_of("inversion.noise_ratio=0.25,0.75")
    base = override(Config(), ["inversion.paradigm=reconstruction"])
    assert len(cells_of("inversion.noise_ratio=0.25,0.75", base=base)) == 2


def test_only_what_decides_the_parameters_needs_a_model():
    free = cells_of(STEPS, PARADIGM, "inversion.use_ema=true,false", seeds=(0, 1))
    assert {cell.run for cell in free} == {"seed=0", "seed=1"}
    assert {cell.training for cell in free} == {("train.seed=0",), ("train.seed=1",)}
    frozen = cells_of(STEPS, "denoiser.name=dit,mlp", "encoder.stages=[2,4],[4,10]")
    assert len({cell.run for cell in frozen}) == len({cell.training for cell in frozen}) == 4
    assert frozen[2].run == "denoiser.name=mlp,encoder.stages=2+4,seed=0"
    assert override(Config(), frozen[2].training).encoder.stages == (2, 4)


def test_sweeps_of_one_base_share_its_model():
    """The default network is that of the base: `seed=0`, whatever else is swept."""
    (free,) = {cell.run for cell in cells_of(STEPS)}
    dit, mlp = (cell.run for cell in cells_of("denoiser.name=dit,mlp"))
    assert dit == free == "seed=0"
    assert mlp == "denoiser.name=mlp,seed=0"


def test_weights_are_free_but_other_weights_are_another_model():
    paths = ("a/b.pth", "a_b.pth")
    runs = [cell.run for cell in cells_of(f"encoder.weights={','.join(paths)}")]
    assert len(set(runs)) == 2
    assert not any("/" in run for run in runs)


def test_values_written_in_two_ways_are_one():
    (axis,) = parse_axes(["inversion.noise_ratio=0.5,0.50,5e-1, .25"], Config())
    assert axis.values == ("0.5", "0.25")
    (axis,) = parse_axes(["encoder.stages=[],(2, 4),[2,4],7"], Config())
    assert axis.values == ("[]", "[2,4]", "[7]")
    (axis,) = parse_axes(["inversion.use_ema=True,1,false"], Config())
    assert axis.values == ("true", "false")


def test_seeds():
    assert parse_seeds("2, 0,2", Config()) == (2, 0)
    assert parse_seeds(None, override(Config(), ["train.seed=7"])) == (7,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--over", "inversion.num_step=1,2"], "did you mean inversion.num_steps"),
        (["--over", "inversion.num_steps=1,two"], "expected a whole number"),
        (["--over", "inversion.spacing=linspace,log"], "expected one of linspace"),
        (["--over", "inversion.num_steps=1,2000"], "must be at most"),
        (["--over", "inversion.num_steps="], "needs values"),
        (["--over", "inversion.num_steps=1,,2"], "needs values"),
        (["--over", "inversion.num_steps"], "section.option=value"),
        (["--over", "num_steps=1"], "section.option=value"),
        (["--over", STEPS, "--over", "inversion.num_steps=7"], "given twice"),
        (["--over", "train.seed=0,1"], "--seeds"),
        (["--over", STEPS, "--seeds", "0,x"], "--seeds 0,x"),
        (["--over", STEPS, "--set", "train.sed=1"], "train.seed"),
        (["--over", STEPS, "--outt", "x"], "--out"),
        ([], "--over"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_status_2(arguments, message, capsys):
    config = str(PROJECT / "configs" / "procedural.py")
    assert sweep.cli(["--config", config, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_no_device_is_touched_before_a_training_starts(tmp_path, monkeypatch, capsys):
    """Many devices serve one process only."""

    def touched(*arguments):
        raise AssertionError

    start = sweep.subprocess.Popen

    def started(command, **circumstances):
        if command[2] == "invad_jax.inference.shapes":  # has a CPU of its own
            assert circumstances["env"]["JAX_PLATFORMS"] == "cpu"
            return start(command, **circumstances)
        raise UserError(f"started {command[2]}")

    monkeypatch.setattr(xla_bridge, "get_backend", touched)
    monkeypatch.setattr(sweep.subprocess, "Popen", started)
    argv = ["--config", str(PROJECT / "configs" / "procedural.py"), "--over", STEPS]
    assert sweep.cli([*argv, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.endswith("error: started invad_jax.train\n")


@pytest.mark.parametrize(
    ("axis", "options", "message", "point"),
    [
        ("encoder.name=efficientnet_b4,dino_vitb16", ["encoder.stages=1,5,9,21"],
         "error: encoder.stages=1,5,9,21: expected rising block indices",
         "(--over encoder.name=dino_vitb16)"),
        ("denoiser.num_heads=4,3", ["encoder.weights=random"],
         "error: denoiser.num_heads=3: must divide", "(--over denoiser.num_heads=3)"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_trained(
    axis, options, message, point, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sweep, "_train", None)
    argv = ["--config", str(PROJECT / "configs" / "procedural.py"), "--over", axis]
    argv += ["--set", *options, "--out", str(tmp_path / "out")]
    assert sweep.cli(argv) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.rstrip().endswith(point)
    assert not (tmp_path / "out").exists()


def row(i_auroc, p_auroc=None):
    metrics = dict.fromkeys(METRICS) | {"i_auroc": i_auroc, "p_auroc": p_auroc}
    return {**metrics, **dict.fromkeys(COUNTS, 3)}


def result(i_auroc, nfe, p_auroc=None):
    """Of two categories, their image AUROC 0.1 around the mean; NLL alone is 0.2 worse."""

    def table(mean):
        return {
            "categories": {"nut": row(mean - 0.1, p_auroc), "pin": row(mean + 0.1, p_auroc)},
            "mean": row(mean, p_auroc),
        }

    fusion = {"calibrated": table(i_auroc), "nll": table(i_auroc - 0.2)}
    return {"fusion": fusion, "nfe": nfe, "date": "2001-02-03", "device": "1 x pen"}


@pytest.fixture
def written(tmp_path):
    """Two seeds of S = 1, 3 by inversion and by reconstruction with one r."""
    axes = (
        "inversion.num_steps=1,3", PARADIGM, "inversion.noise_ratio=0.5",
    )  # fmt: skip
    cells = cells_of(*axes, seeds=(0, 1))
    results = [result(0.5 + 0.02 * i, nfe=i) for i in range(len(cells))]
    names = [axis.name for axis in parse_axes(axes, Config())]
    table.write(tmp_path / "sweep", names, cells, results, "make it")
    return tmp_path, cells, results


def test_the_csv_has_every_number(written):
    folder, cells, results = written
    with (folder / "sweep.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(cells) * 2 * 3  # fusions; categories and mean
    for i, (cell, of_cell) in enumerate(zip(cells, results, strict=True)):
        (mean,) = [
            r for r in rows
            if r["run"] == cell.run and r["category"] == "mean" and r["fusion"] == "nll"
            and (r["inversion.num_steps"], r["inversion.paradigm"]) == cell.values[:2]
        ]  # fmt: skip
        assert float(mean["i_auroc"]) == of_cell["fusion"]["nll"]["mean"]["i_auroc"]
        assert mean["inversion.noise_ratio"] == (cell.values[2] or "")
        assert (mean["seed"], mean["nfe"], mean["mad"]) == (str(cell.seed), str(i), "")


def test_the_table_has_means_and_ranges_over_seeds(written):
    text = (written[0] / "sweep.md").read_text()
    assert "`make it`" in text
    assert "Seed: 0, 1. Category: nut, pin. Device: 1 x pen. Date: 2001-02-03." in text
    lines = text.splitlines()
    header = "| inversion.num_steps | inversion.paradigm | inversion.noise_ratio | NFE | "
    assert header + "I-AUROC | I-AUROC, NLL alone |" in lines
    # Seeds 0 and 1 of the first point: 0.50 and 0.52; of the last: 0.62 and 0.64.
    assert "| 1 | inversion | - | 0 | 51.0 (50.0..52.0) | 31.0 (30.0..32.0) |" in lines
    assert "| 3 | reconstruction | 0.5 | 6 | 63.0 (62.0..64.0) | 43.0 (42.0..44.0) |" in lines
    assert header + "nut | pin |" in lines
    assert "| 3 | reconstruction | 0.5 | 6 | 53.0 (52.0..54.0) | 73.0 (72.0..74.0) |" in lines


def test_one_seed_and_one_category_have_no_ranges_and_no_second_table():
    (cell,) = cells_of("inversion.num_steps=3")
    only = result(0.5, 3)
    for of_fusion in only["fusion"].values():
        del of_fusion["categories"]["pin"]
    text = table.markdown(["S"], table.rows(["S"], cell, only), "")
    assert text.splitlines()[-1] == "| 3 | 3 | 50.0 | 30.0 |"


def test_the_lines_of_the_plot_are_means_with_their_ranges():
    cells = cells_of("inversion.noise_ratio=0.25,0.75", PARADIGM, seeds=(0, 1))
    rows = []
    for i, cell in enumerate(cells):
        rows += table.rows(["r", "paradigm"], cell, result(0.5 + 0.02 * i, 1))
    ax = Figure().subplots()
    points = table._points(["r", "paradigm"], rows)
    table._draw_panel(ax, points, ("calibrated",), "i_auroc")
    by_label = {c.get_label(): c for c in ax.containers}
    assert set(by_label) == {"inversion", "reconstruction"}
    # Points in order: inversion (at any r), reconstruction at 0.25, at 0.75; seeds 2 points apart.
    for label, means in {"inversion": [51, 51], "reconstruction": [55, 59]}.items():
        line, _, (bars,) = by_label[label]
        np.testing.assert_allclose(line.get_ydata(), means)
        lengths = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
        np.testing.assert_allclose(lengths, [2, 2])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0.25", "0.75"]


def test_the_plot_is_a_picture_and_the_same_every_time(written):
    folder, cells, results = written
    first = (folder / "sweep.png").read_bytes()
    names = ["inversion.num_steps", "inversion.paradigm", "inversion.noise_ratio"]
    table.write(folder / "sweep", names, cells, results, "make it")
    assert (folder / "sweep.png").read_bytes() == first
    with Image.open(folder / "sweep.png") as picture:
        assert min(picture.size) > 300


def test_metrics_that_nothing_has_are_left_out_and_present_ones_drawn(tmp_path):
    cells = cells_of("inversion.num_steps=1,3")
    results = [result(0.5, 1, p_auroc=0.9), result(0.6, 3, p_auroc=0.95)]
    table.write(tmp_path / "sweep", ["S"], cells, results, "make it")
    header = "| S | NFE | I-AUROC | I-AUROC, NLL alone | P-AUROC |"
    assert header in (tmp_path / "sweep.md").read_text().splitlines()
    with Image.open(tmp_path / "sweep.png") as picture:
        width, height = picture.size
    assert math.isclose(width / height, 2 * 4.2 / 3.4, rel_tol=0.01)  # two panels; whole pixels


def test_a_metric_that_no_image_has_is_drawn_as_nothing(tmp_path):
    (cell,) = cells_of("inversion.num_steps=3")
    empty = result(0.5, 3)
    for of_fusion in empty["fusion"].values():
        for values in (*of_fusion["categories"].values(), of_fusion["mean"]):
            values["i_auroc"] = None
    table.write(tmp_path / "sweep", ["S"], [cell], [empty], "make it")
    assert (tmp_path / "sweep.md").read_text().splitlines()[-1] == "| 3 | 3 |"
    assert table.summary(cell, empty) == "3: I-AUROC -"


def test_what_an_image_belongs_to_is_part_of_what_was_measured(tmp_path):
    """Of the same contents in other categories the metrics are others."""
    samples = []
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(bytes([i]))
        samples.append(Sample(str(tmp_path / f"{i}.png"), "nut", "good", i % 2))
    moved = [dataclasses.replace(samples[0], category="pin"), *samples[1:]]
    assert layouts.fingerprint(samples) == layouts.fingerprint(moved)
    assert sweep._identity(samples) == sweep._identity(samples[::-1])
    assert sweep._identity(samples) != sweep._identity(moved)
