"""U-Nets of guided diffusion with every option that is read, on tiny random weights, through the
command. The oracle is `Reference`, our own torch module under the published names."""

import math

import numpy as np
import pytest

import invad_jax
from invad_jax.config import DenoiserConfig
from invad_jax.convert import cli
from invad_jax.converters.published import denoiser_config_from_published

torch = pytest.importorskip("torch", reason="the oracle needs torch")
nn, F = torch.nn, torch.nn.functional


class Residual(nn.Module):
    """Equations of Nichol & Dhariwal (2021) and, where it resamples, of Song et al. (2021)."""

    def __init__(self, inputs, outputs, embedded, scale_shift, way=None):
        super().__init__()
        norms = [nn.GroupNorm(32, n) for n in (inputs, outputs)]
        convs = [nn.Conv2d(n, outputs, 3, padding=1) for n in (inputs, outputs)]
        vectors = 1 + scale_shift
        self.in_layers = nn.ModuleList([norms[0], nn.SiLU(), convs[0]])
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedded, vectors * outputs))
        self.out_layers = nn.ModuleList([norms[1], nn.SiLU(), nn.Identity(), convs[1]])
        self.skip_connection = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.scale_shift, self.way = scale_shift, way

    def resampled(self, x):
        if self.way == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.way == "up" else x

    def forward(self, x, embedding):
        first_norm, _, first_conv = self.in_layers
        second_norm, _, _, second_conv = self.out_layers
        h = first_conv(self.resampled(F.silu(first_norm(x))))
        time = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            half = time.shape[1] // 2
            h = second_norm(h) * (1 + time[:, :half]) + time[:, half:]
        else:
            h = second_norm(h + time)
        return self.skip_connection(self.resampled(x)) + second_conv(F.silu(h))


class Attention(nn.Module):
    """The rows of `qkv` are heads first, then q, k, v within each (the older of two orders)."""

    def __init__(self, channels, head_channels):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        self.head_channels = head_channels

    def forward(self, x, _):
        tokens = self.qkv(self.norm(x).flatten(2))
        out = []
        for head in tokens.split(3 * self.head_channels, dim=1):
            q, k, v = (part.transpose(1, 2) for part in head.split(self.head_channels, dim=1))
            weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(self.head_channels), dim=-1)
            out.append((weights @ v).transpose(1, 2))
        return x + self.proj_out(torch.cat(out, dim=1)).reshape(x.shape)


class Down(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x, _):
        return self.op(x)


class Up(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, _):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Plain(nn.Conv2d):
    def forward(self, x, _):
        return super().forward(x)


class Reference(nn.Module):
    """The network of Dhariwal & Nichol (2021), appendix A, with a learned variance."""

    def __init__(self, width, mults, blocks, attended, heads, scale_shift, within, classes):
        super().__init__()
        self.width, embedded, channels = width, 4 * width, 3

        def residual(inputs, outputs, way=None):
            return Residual(inputs, outputs, embedded, scale_shift, way)

        def level_layers(inputs, outputs, level):
            attention = [Attention(outputs, heads)] if 2**level in attended else []
            return [residual(inputs, outputs), *attention]

        self.time_embed = nn.Sequential(
            nn.Linear(width, embedded), nn.SiLU(), nn.Linear(embedded, embedded)
        )
        if classes:
            self.label_emb = nn.Embedding(classes, embedded)
        now, skips, last = width, [width], len(mults) - 1
        down, up = [[Plain(channels, width, 3, padding=1)]], []
        for level, mult in enumerate(mults):
            for _ in range(blocks):
                down.append(level_layers(now, mult * width, level))
                now = mult * width
                skips.append(now)
            if level < last:
                down.append([residual(now, now, "down") if within else Down(now)])
                skips.append(now)
        middle = [residual(now, now), Attention(now, heads), residual(now, now)]
        for level, mult in reversed(list(enumerate(mults))):
            for place in range(blocks + 1):
                up.append(level_layers(now + skips.pop(), mult * width, level))
                now = mult * width
                if level and place == blocks:
                    up[-1].append(residual(now, now, "up") if within else Up(now))
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, down))
        self.middle_block = nn.ModuleList(middle)
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, up))
        self.out = nn.Sequential(
            nn.GroupNorm(32, now), nn.SiLU(), nn.Conv2d(now, 2 * channels, 3, padding=1)
        )

    def forward(self, x, t, labels=None):
        half = self.width // 2
        frequencies = 10_000.0 ** (-torch.arange(half) / half)
        angles = t[:, None] * frequencies
        embedding = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        if labels is not None:
            embedding = embedding + self.label_emb(labels)
        skips = []
        for block in self.input_blocks:
            for layer in block:
                x = layer(x, embedding)
            skips.append(x)
        for layer in self.middle_block:
            x = layer(x, embedding)
        for block in self.output_blocks:
            x = torch.cat([x, skips.pop()], dim=1)
            for layer in block:
                x = layer(x, embedding)
        return self.out(x)


SIZES = {"width": 64, "mults": (1, 2), "blocks": 1, "attended": {2}, "heads": 16}
PLAIN = {"scale_shift": False, "within": False, "classes": 0}
ADM = {"scale_shift": True, "within": True, "classes": 3}
LABEL = 2


def reference(options):
    """Random also where a fresh network is not: in what scales and shifts the norms."""
    torch.manual_seed(0)
    model = Reference(**(SIZES | options)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight += 0.3 * torch.randn_like(module.weight)
                module.bias += 0.3 * torch.randn_like(module.bias)
    return model


def convert(tensors, folder, *options):
    torch.save(tensors, folder / "model.pt")
    return cli([
        "--from", "guided-diffusion", "--input", str(folder / "model.pt"), "--latent-size", "8",
        "--head-channels", "16", "--workdir", str(folder / "run"), *options,
    ])  # fmt: skip


def refused(tensors, folder, capsys, message, *options):
    assert convert(tensors, folder, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        ADM | {"mults": (1, 1, 2)},  # levels of equal width: all residual blocks look alike
        PLAIN | {"scale_shift": True},
        PLAIN | {"within": True, "blocks": 2, "mults": (1, 1), "attended": {1}},
    ],
    ids=["adm", "scale_shift", "within"],
)
def test_every_option_gives_the_same_output(tmp_path, options):
    model = reference(options)
    label = ("--class-label", str(LABEL)) if options["classes"] else ()
    assert convert(model.state_dict(), tmp_path, *label) == 0
    x, t = np.random.default_rng(0).standard_normal((3, 3, 8, 8), np.float32), [0, 500, 999]
    labels = torch.full((3,), LABEL) if options["classes"] else None
    with torch.no_grad():
        expected = model(torch.from_numpy(x), torch.tensor(t), labels)[:, :3].numpy()
    run = invad_jax.load(tmp_path / "run")
    eps = run.denoise(x.transpose(0, 2, 3, 1), np.array(t)).transpose(0, 3, 1, 2)
    # float32 sums in another order, through some 20 layers
    assert np.abs(eps - expected).max() < 1e-5 * np.abs(expected).max()
    assert ("resample_in_blocks" in run.config.denoiser.variants) == options["within"]


def test_the_published_size_is_read_from_its_shapes():
    """The class-conditional network for 256 x 256: 554 million weights in the paper."""
    with torch.device("meta"):
        model = Reference(256, (1, 1, 2, 2, 4, 4), 2, {8, 16, 32}, 64, True, True, 1000)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    count = sum(map(math.prod, shapes.values()))
    assert round(count / 1e6) == 554
    tensors = {f"net.{k}": np.broadcast_to(np.float32(0), s) for k, s in shapes.items()}
    expected = DenoiserConfig(
        name="unet", width=256, channel_mult=(1, 1, 2, 2, 4, 4), num_res_blocks=2,
        attention_downsamplings=(8, 16, 32), head_channels=64,
        variants=("resample_in_blocks", "time_scale"),
    )  # fmt: skip
    assert denoiser_config_from_published(tensors, {"head_channels": 64}) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "3 classes: give --class-label 0..2"),
        (("--class-label", "3"), "--class-label 0..2"),
        (("--class-label", "-1"), "--class-label 0..2"),
    ],
)
def test_a_class_must_be_chosen(tmp_path, capsys, options, message):
    refused(reference(PLAIN | {"classes": 3}).state_dict(), tmp_path, capsys, message, *options)


def test_what_does_not_fit_is_named(tmp_path, capsys):
    tensors = reference(PLAIN).state_dict()
    refused(tensors, tmp_path, capsys, "--class-label 0: ", "--class-label", "0")
    table = {"label_emb.weight": torch.zeros(3, 64)}
    refused(tensors | table, tmp_path, capsys, "label_emb.weight is (3, 64)", "--class-label", "0")
    without = {k: v for k, v in tensors.items() if ".op." not in k}
    refused(without, tmp_path, capsys, "conv_resample=False")
    narrow = {"time_embed.0.weight": torch.zeros(512, 128)}
    refused(tensors | narrow, tmp_path, capsys, "a first channel_mult other than 1")
    mixed = reference(PLAIN | {"within": True}).state_dict()
    mixed = {k: v for k, v in mixed.items() if not k.startswith("input_blocks.2.")}
    refused(mixed | {k: v for k, v in tensors.items() if k.startswith("input_blocks.2.")},
            tmp_path, capsys, "input_blocks.2.0.op.weight")  # fmt: skip
