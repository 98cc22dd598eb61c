"""Settings that hold for every test: CPU, eight devices, strict shapes, compiled programs kept."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # libtpu, once installed, would make JAX look for a TPU
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"  # for tests/multidevice; the others use the first
# Compiling takes two thirds of the time so; `optimised` lifts it where programs are counted.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Threads of NumPy's products wait by turning: beside those of XLA and of other tests, ten times the
# work of the products themselves.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import gc
import signal
from pathlib import Path

import hypothesis
import pytest

# What a user has set for clients of the hub and of stores is not for the emulators.
for name in list(os.environ):
    if name.startswith(("AWS_", "HF_", "HUGGING_FACE_")) and name != "AWS_CA_BUNDLE":
        del os.environ[name]
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost,::1"

# An example takes as long as the machine lets it.
hypothesis.settings.register_profile(
    "ours", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ours")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell leaves it to `... &`
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT = Path(__file__).resolve().parents[1]
# Shared by all tests and the commands they start; its keys name program, options and jaxlib.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(PROJECT / ".pytest_cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def pytest_collection_finish() -> None:
    """Python need not look for garbage among what was imported: 5 % of the time of tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)  # as commands do


@pytest.fixture
def optimised():
    """Programs as a user's are: for tests that count in them."""
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The optional folder of real images and golden numbers; skips where it is absent."""
    path = Path(os.environ.get("INVAD_SHARED", PROJECT.parent / "shared"))
    if not (path / "golden").is_dir():
        pytest.skip(f"optional test data not found at {path} (set INVAD_SHARED to its folder)")
    return path


@pytest.fixture(scope="session")
def golden_dir(shared_dir: Path) -> Path:
    """Numbers of the published PyTorch code."""
    return shared_dir / "golden"


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """Starts commands in a scratch folder with a cache of their own."""
    from tests.commands import Commands  # imports JAX, after the settings above

    return Commands(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="session")
def said_by_train(commands) -> str:
    """What a tiny training on the procedural set said; its workdir is `run`."""
    from tests.commands import training

    return commands.here(*training("run")).stderr


@pytest.fixture(scope="session")
def trained(commands, said_by_train) -> Path:
    """The workdir `run` of that training."""
    return commands.folder / "run"
