"""Files of other detectors: what is read of them, and what is refused."""

import dataclasses
import pickle
import zipfile
from argparse import Namespace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import invad_jax
from invad_jax.config import Config, DenoiserConfig
from invad_jax.convert import cli
from invad_jax.converters.published import params_to_published
from invad_jax.converters.rivals import RIVALS, read_file
from invad_jax.denoisers import build_denoiser
from invad_jax.errors import UserError
from invad_jax.inference.assembly import abstract_params
from invad_jax.io.tensors import read_tensors, write_tensors
from tests.parameters import random_like

SMALL = {
    "deco-diff": DenoiserConfig(
        name="unet_deco_diff", width=32, num_res_blocks=1, channel_mult=(1, 2),
        attention_downsamplings=(1, 2), head_channels=16, context=(3, 8),
    ),
    "mad-ad": DenoiserConfig(
        name="unet_mad_ad", width=32, num_res_blocks=1, channel_mult=(1, 2),
        attention_downsamplings=(1, 2), num_heads=2,
    ),
    "transfusion": DenoiserConfig(
        name="unet_transfusion", width=32, num_res_blocks=1, channel_mult=(2, 1),
        attention_downsamplings=(2,),
    ),
    "diad": DenoiserConfig(
        name="unet_diad", width=32, num_res_blocks=2, channel_mult=(1, 1, 1, 1),
        attention_downsamplings=(4,), num_heads=2, context=(0, 8),
    ),
}  # fmt: skip
NAMES = {"deco-diff": "last.pt", "mad-ad": "last.pt", "transfusion": "a.pkl", "diad": "a.ckpt"}
HEADS = ("--num-heads", "2")


def heads(source):
    return {} if source == "transfusion" else {"num_heads": 2}


def channels(source):
    return 3 if source == "transfusion" else 4


@cache
def tensors_of(source):
    """A random network's, as its own code would name them; nobody changes them."""
    cfg = SMALL[source]
    params = random_like(abstract_params(Config(denoiser=cfg), (8, 8, channels(source))))
    tensors = params_to_published(params, cfg, {})
    backwards = {ours: theirs for theirs, ours in reversed(RIVALS[source].prefixes.items())}
    named = {}
    for key, value in tensors.items():
        ours = max((p for p in backwards if key.startswith(p)), key=len)
        named[backwards[ours] + key.removeprefix(ours)] = value
    return params, named


@pytest.fixture
def file(tmp_path):
    def write(source, tensors=None):
        path = tmp_path / NAMES[source]
        write_tensors(path, tensors_of(source)[1] if tensors is None else tensors)
        return path

    return write


@pytest.mark.parametrize("source", RIVALS)
def test_every_tensor_and_size_is_read(source, file):
    params, tensors = tensors_of(source)
    converted = read_file(source, file(source, tensors), heads(source), 8, None)
    assert converted.config.denoiser == SMALL[source]
    assert converted.latent_shape == (8, 8, channels(source))
    jax.tree.map(np.testing.assert_array_equal, converted.params, params)


@pytest.mark.parametrize("source", RIVALS)
@pytest.mark.parametrize("what", ["missing", "unexpected", "misshapen", "not finite"])
def test_another_network_is_refused(source, what, file):
    tensors = tensors_of(source)[1]
    name = next(name for name in tensors if name.endswith("bias"))
    wrong = {
        "missing": {k: v for k, v in tensors.items() if k != name},
        "unexpected": tensors | {f"{name}s": tensors[name]},
        "misshapen": tensors | {name: tensors[name][:-1]},
        "not finite": tensors | {name: np.full_like(tensors[name], np.nan)},
    }[what]
    message = {"misshapen": "of another shape", "not finite": "NaN"}.get(what, what)
    path = file(source, wrong)
    with pytest.raises(UserError, match=message) as caught:
        read_file(source, path, heads(source), 8, None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def malicious(path, tensors):
    """The same file, with a call where the settings of a training would lie."""
    write_tensors(path, tensors)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    call = b"X\x04\x00\x00\x00argscos\nsystem\nX\x04\x00\x00\x00true\x85Rs."
    members[name] = members[name][:-1] + call
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), data)


@pytest.mark.parametrize("source", RIVALS)
@pytest.mark.parametrize("kind", ["malicious", "truncated", "foreign", "empty", "absent"])
def test_a_bad_file_is_one_line_and_nothing_is_written(source, kind, file, tmp_path, capsys):
    path = file(source)
    if kind == "malicious":
        malicious(path, tensors_of(source)[1])
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "foreign":
        other = "mad-ad" if source != "mad-ad" else "transfusion"
        write_tensors(path, {f"state_dict.{k}": v for k, v in tensors_of(other)[1].items()})
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    options = () if source == "transfusion" else HEADS
    workdir = tmp_path / "run"
    status = cli(["--from", source, "--input", str(path), "--workdir", str(workdir), *options])
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    if kind == "malicious":
        assert "os.system" in line
    assert not workdir.exists()


def test_a_namespace_beside_the_tensors_is_not_made(file):
    """As torch saves an `argparse.Namespace`; what lies within it is looked at."""
    pickled = pickle.dumps({"args": Namespace(model_size="UNet_L", ratio=0.7)}, protocol=2)
    inner = pickled[2:-1]  # without protocol and stop

    def with_args(program):
        path = file("deco-diff")
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        name = next(name for name in members if name.endswith("data.pkl"))
        members[name] = b"\x80\x02(" + members[name][2:-1] + program + b"l."
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in members.items():
                archive.writestr(zipfile.ZipInfo(member), data)
        return path

    expected = {f"0.{name}" for name in tensors_of("deco-diff")[1]}
    assert set(read_tensors(with_args(inner))) == expected
    other = inner.replace(b"argparse\nNamespace", b"argparse\nFileType")
    for program, named in (
        (other, "argparse.FileType"),
        (b"ccollections\nOrderedDict\n)\x81", "instruction NEWOBJ of collections.OrderedDict"),
    ):
        with pytest.raises(UserError, match=f"would run {named}"):
            read_tensors(with_args(program))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("deco-diff", (), "no tensor tells it for a U-Net of width 32; give --num-heads"),
        ("deco-diff", ("--head-channels", "64"), "denoiser.head_channels=64: must lie in 1..32"),
        ("mad-ad", ("--num-heads", "3"), "denoiser.num_heads=3: must divide the 32 channels"),
        ("mad-ad", ("--num-heads", "0"), "denoiser.num_heads=0: must be at least 1"),
        ("mad-ad", ("--head-channels", "8"), "as many heads on all levels"),
        ("mad-ad", (*HEADS, "--text", "x.npz"), "--text: is not asked by --from mad-ad"),
        ("diad", (*HEADS, "--text", "absent.npz"), "absent.npz"),
        ("diad", (*HEADS, "--latent-size", "12"), "need a latent grid divisible by 8"),
        ("transfusion", HEADS, "TransFusion's attention has one head"),
        ("transfusion", ("--class-label", "1"), "--class-label"),
        ("transfusion", ("--set", "inversion.paradigm=inversion"), "says noise, mean, mask_logits"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_one_line(source, options, message, file, tmp_path, capsys):
    arguments = ["--from", source, "--input", str(file(source)), "--workdir", str(tmp_path / "run")]
    assert cli([*arguments, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_text_that_comes_with_each_call(file, tmp_path):
    """Without `--text` the file is read, and the network says what it lacks."""
    workdir = str(tmp_path / "run")
    path = str(file("diad"))
    arguments = ["--from", "diad", "--input", path, "--latent-size", "8", "--workdir", workdir]
    assert cli([*arguments, *HEADS]) == 0
    model = invad_jax.load(workdir)
    x, image = np.ones((2, 8, 8, 4), np.float32), np.ones((2, 64, 64, 3), np.float32)
    with pytest.raises(UserError, match="give `text`"):
        model.outputs(x, 3, image=image)
    text = np.random.default_rng(0).standard_normal((1, 5, 8)).astype(np.float32)
    given = model.outputs(x, 3, image=image, text=text)["eps"]
    np.savez(tmp_path / "text.npz", text=text[0])
    again = str(tmp_path / "again")
    kept = ["--text", str(tmp_path / "text.npz")]
    assert cli([*arguments[:-1], again, *HEADS, *kept]) == 0
    found = invad_jax.load(again).outputs(x, 3, image=image)["eps"]
    np.testing.assert_array_equal(found, given)
    unguided = model.outputs(x, 3, text=text)["eps"]
    assert not np.allclose(unguided, given)


SD = DenoiserConfig(
    name="unet_diad", width=320, num_res_blocks=2, channel_mult=(1, 2, 4, 4),
    attention_downsamplings=(1, 2, 4), num_heads=8, context=(0, 768),
)  # fmt: skip
DECO = DenoiserConfig(
    name="unet_deco_diff", width=256, num_res_blocks=2, channel_mult=(1, 2, 4),
    attention_downsamplings=(1, 2, 4), head_channels=32, context=(15, 512),
)  # fmt: skip
MAD = dataclasses.replace(DECO, name="unet_mad_ad", num_heads=8, context=())
TRANSFUSION = DenoiserConfig(
    name="unet_transfusion", width=64, num_res_blocks=2, channel_mult=(1, 2, 4, 8),
    attention_downsamplings=(4, 8),
)  # fmt: skip


def sized(cfg, width, head_channels):
    """Another published size: the vector of a class is twice as wide as the first level."""
    context = (15, 2 * width) if cfg.context else ()
    return dataclasses.replace(cfg, width=width, head_channels=head_channels, context=context)


def counted(cfg, shape):
    """Parameters under the first letters of their names, nothing computed."""
    network = build_denoiser(cfg, shape)
    x_t, t = jnp.zeros((1, *shape)), jnp.zeros((1,), jnp.int32)
    found = jax.eval_shape(network.init, jax.random.key(0), x_t, t)["params"]
    return {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in found.items()}


@pytest.mark.parametrize(
    ("cfg", "shape", "published"),
    [
        (sized(DECO, 64, 16), (32, 32, 4), 24_749_636),
        (sized(DECO, 128, 32), (32, 32, 4), 98_831_492),
        (sized(DECO, 192, 32), (32, 32, 4), 222_245_572),
        (DECO, (32, 32, 4), 394_991_876),
        (sized(DECO, 320, 26), (32, 32, 4), 612_717_564),
        (MAD, (32, 32, 4), 257_735_941),
        # 128 running statistics are no parameters in torch.
        (TRANSFUSION, (256, 256, 3), 54_559_431 + 2 * 64),
    ],
)
def test_published_sizes_have_the_published_parameters(cfg, shape, published):
    assert sum(counted(cfg, shape).values()) == published


def test_the_two_networks_of_diad_have_the_published_parameters():
    found = counted(SD, (32, 32, 4))
    assert found.pop("guide") == 471_871_120
    assert sum(found.values()) == 859_520_964
