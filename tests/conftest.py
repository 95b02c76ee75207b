"""Settings and fixtures that all tests share.

Tests run on the CPU, split into eight devices, so that sharded programs can be tested anywhere.
"""

import atexit
import functools
import gc
import json
import os
import pathlib
import resource
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from PIL import Image

from tpgdiff_jax.benchmark.worker import System
from tpgdiff_jax.checkpoints.convert import from_reference, unet_for
from tpgdiff_jax.config import base_config
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.priors import Priors

pytest_plugins = ("local_processes", "training_runs")

# All this before anything asks JAX for its devices, and for the programs that tests start, too.
# Tests compile much and compute little: less effort in code generation halves their time.  Those
# who run the program as users do remove the flags.
_QUICK = ["--xla_backend_optimization_level=0"]
if jax.version.__version_info__ < (0, 11):  # later ones have no others, nor the flag
    _QUICK.append("--xla_cpu_use_fusion_emitters=false")
if _QUICK[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = " ".join([*_QUICK, os.environ.get("XLA_FLAGS", "")])
os.environ["JAX_PLATFORMS"] = "cpu"
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")

# What is compiled is kept here, not in the user's folder.  The processes of one test run share it:
# they inherit it from the one that hands out the tests.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="tpgdiff_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", os.path.join(os.environ["XDG_CACHE_HOME"], "tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

if not flags.FLAGS.is_parsed():  # grain's worker processes read absl flags
    flags.FLAGS(["pytest"])

hypothesis.settings.register_profile(
    "repeatable",
    deadline=None,
    max_examples=15,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Free compiled programs, which few modules share: a process would grow to 9 GB else.

    Not after each module: all compile the same small programs.
    """
    yield
    global _memory_then
    if _memory() > _memory_then + 1.5 * 2**30:
        jax.clear_caches()
        gc.collect()
        _memory_then = _memory()


def _memory() -> int:
    """Return the bytes that this process has in memory; where that is not told, had at most."""
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    return pages * resource.getpagesize()


_memory_then = _memory()


GOLDEN = pathlib.Path(__file__).parent / "golden"
GOLDEN_SEED = 7


def _channels_last(array: np.ndarray) -> np.ndarray:
    """Turn [..., C, H, W] into [..., H, W, C]; arrays of fewer than four axes hold no batch."""
    return np.moveaxis(array, -3, -1) if array.ndim >= 4 else array


@functools.cache
def _load(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: _channels_last(file[key]) for key in file}


@functools.cache
def _weights(name: str) -> dict[str, np.ndarray]:
    fill = runpy.run_path(str(GOLDEN / "weights.py"))["fill"]
    return fill(GOLDEN / "keys" / f"{name}.json", GOLDEN_SEED)


@functools.cache
def _unet(name: str):
    model = unet_for(_weights(name))
    params = jax.tree.map(jax.numpy.asarray, from_reference(_weights(name), "unet"))
    return model, params, jax.jit(model.apply)


@pytest.fixture(scope="session")
def golden():
    """`golden(name)` -> the arrays of one golden file, image batches as NHWC."""
    return _load


@pytest.fixture(scope="session")
def golden_weights():
    """`golden_weights(name)` -> a PyTorch state dict, filled by the rule of golden/weights.py."""
    return _weights


@pytest.fixture(scope="session")
def golden_unet():
    """`golden_unet(name)` -> (model, params, jitted apply) with the golden weights."""
    return _unet


@pytest.fixture(scope="session")
def golden_priors():
    """`golden_priors(arrays)` -> all three priors of a golden file."""
    return lambda arrays: Priors(
        arrays["degradation"], arrays["semantic"], arrays["structure_tokens"]
    )


@pytest.fixture(scope="session")
def assert_near():
    """`assert_near(actual, desired, relative)`: differ by at most that part of its maximum."""

    def check(actual, desired, relative: float):
        actual, desired = np.asarray(actual, np.float64), np.asarray(desired, np.float64)
        assert actual.shape == desired.shape
        assert np.isfinite(actual).all()
        np.testing.assert_allclose(actual, desired, rtol=0, atol=relative * np.abs(desired).max())

    return check


@pytest.fixture(scope="session")
def make_mesh():
    """`make_mesh(data=2, spatial=4)` -> a mesh of that many devices, shardings left to XLA."""

    def make(**sizes: int):
        automatic = (jax.sharding.AxisType.Auto,) * len(sizes)
        return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=automatic)

    return make


@pytest.fixture(scope="session")
def random_params():
    """`random_params(model, *inputs, seed=0)` -> parameters of which none is zero.

    Matrices keep the size of their fan-in; gains stay near 1.  Layers that start at zero would
    otherwise hide whatever feeds them.  Much faster than `model.init`, which compiles.
    """

    def draw(model, *inputs, seed: int = 0):
        shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
        rng = np.random.default_rng(seed)

        def fill(path, leaf):
            x = rng.standard_normal(leaf.shape)
            x = x / np.sqrt(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1 * x
            x = x + (path[-1].key == "scale")
            return jax.numpy.asarray(x, leaf.dtype)

        return jax.tree.map_with_path(fill, shapes)

    return draw


def _load_config(path):
    return runpy.run_path(str(path))["get_config"]()


@pytest.fixture(scope="session")
def load_config():
    """`load_config(path)` -> the configuration an experiment file returns."""
    return _load_config


@pytest.fixture
def photo_folder(tmp_path):
    """A folder of three small photos."""
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for index in range(3):
        coarse = rng.integers(0, 256, (6, 7, 3), np.uint8)
        image = Image.fromarray(coarse).resize((56, 48), Image.Resampling.BICUBIC)
        folder.mkdir(exist_ok=True)
        image.save(folder / f"{index}.png")
    return folder


@pytest.fixture
def tiny_config(photo_folder):
    """The smallest configuration that has every part: 4 steps on 16-pixel crops."""
    config = base_config()
    config.model.update({"width": 16, "multipliers": (2, 2), "attention_heads": 1, "head_dim": 16})
    config.model.update({"prediction": "v", "identity_init": True})
    config.priors.update({"encoder_width": 4, "map_size": 16, "map_width": 2, "map_max_width": 4})
    config.priors.update({"tokens": 4, "connector_depth": 0})
    config.data.train_folder = str(photo_folder)
    config.data.update({"crop_size": 16, "batch_size": 8})
    config.data.degradations = ("noise", "haze")
    config.loss.objective = "residual"
    config.optim.update({"steps": 4, "learning_rate": 1e-3})
    config.ema.update({"every_steps": 1, "start_step": 1})
    config.checkpoint.every_steps = 2
    config.log.every_steps = 1
    config.eval.update({"steps": 2, "crop_size": 24})
    return config


@pytest.fixture
def free_address():
    """HOST:PORT of this machine at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def start_python():
    """`start_python(code, *arguments)` -> a process of its own, with one CPU device."""
    root = pathlib.Path(__file__).parent.parent

    def start(code, *arguments):
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


_EXPERIMENT = """
import json
from tpgdiff_jax.config import base_config

def get_config():
    config = base_config()
    change(config, json.loads({values!r}))
    return config

def change(group, values):
    for key, value in values.items():
        if isinstance(value, dict):
            change(group[key], value)
        else:
            group[key] = tuple(value) if isinstance(value, list) else value
"""


@pytest.fixture
def tiny_experiment(tmp_path, tiny_config):
    """The tiny configuration as an experiment file."""
    path = tmp_path / "tiny.py"
    values = json.loads(tiny_config.to_json())
    values.pop("sharding")
    path.write_text(_EXPERIMENT.format(values=json.dumps(values)))
    return path


@pytest.fixture(scope="session")
def tiny_system(random_params):
    """A `System` with random weights: 2 steps, all three priors, two degradations."""
    config = base_config()
    config.model.update({"width": 16, "multipliers": (2, 2), "attention_heads": 1, "head_dim": 16})
    config.model.update({"prediction": "v", "identity_init": True})
    config.priors.update({"encoder_width": 4, "map_size": 16, "map_width": 2, "map_max_width": 4})
    config.priors.update({"tokens": 4, "connector_depth": 0})
    config.data.degradations = ("noise", "rain")
    config.eval.steps = 2
    model = tpgdiff.build(config)
    image = jnp.zeros((1, 16, 16, 3))
    params = random_params(model, image, image, jnp.ones(1))
    params["unet"]["final_conv"]["kernel"] *= 0.05
    return System(model, {"params": params, "frozen": {}}, config)


# Files of few but long tests: handed out last, one process would end long after the other.
_LONG_FILES = (
    "test_resume.py",
    "test_main.py",
    "test_experiment.py",
    "test_same_training.py",
    "test_as_users_run.py",
    "test_bfloat16.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of long tests first; the others keep their order."""
    order = {name: number for number, name in enumerate(_LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
