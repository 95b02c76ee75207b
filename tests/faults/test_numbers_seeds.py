"""What promises a seed gives the same bits every time, on 1, 2 and 8 devices."""

import math
import pathlib
import runpy

import jax
import numpy as np
import pytest

from tpgdiff_jax.data.prepare.paired_set import prepare
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.diffusion.samplers import SAMPLERS
from tpgdiff_jax.distributed.sharding import AXES, make_mesh
from tpgdiff_jax.inference.restore import Restorer

MESH_STEPS = pathlib.Path(__file__).parents[1] / "distributed" / "mesh_steps.py"
# Grains of 8 pixels: 64 rows, which eight devices can share.
IMAGE = np.random.default_rng(0).random((8, 6, 3)).astype(np.float32).repeat(8, 0).repeat(8, 1)
LONG = pytest.mark.faults


def _restorer(system, **sizes: int) -> Restorer:
    devices = jax.devices()[: math.prod(sizes.values())]
    mesh = make_mesh({axis: sizes.get(axis, 1) for axis in AXES}, devices) if sizes else None
    return Restorer(system.model, system.variables, system.config, mesh)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({}, marks=LONG),
        pytest.param({"data": 2}, marks=LONG),
        pytest.param({"spatial": 2}, marks=LONG),
        pytest.param({"data": 8}, marks=LONG),
        pytest.param({"spatial": 8}, marks=LONG),
        pytest.param({"data": 2, "spatial": 4}, marks=LONG),
    ],
    ids=str,
)
def test_restoring_gives_the_same_bits_again(tiny_system, sizes, figure):
    restorer, again = _restorer(tiny_system, **sizes), _restorer(tiny_system, **sizes)
    images = [IMAGE, IMAGE[::-1], IMAGE[:, ::-1]]
    first = restorer(images, seed=5)
    for one, two in zip(first, again(images, seed=5), strict=True):
        np.testing.assert_array_equal(one, two)
    assert (first[0] != restorer(IMAGE, seed=6)).any()
    if sizes:
        alone = _restorer(tiny_system)(images, seed=5)
        apart = max(np.abs(a - b).max() for a, b in zip(first, alone, strict=True))
        figure(f"restoring on {sizes}: again bit for bit; {apart:.1e} from one device")
        assert apart < 1e-4


@pytest.mark.faults
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_gives_the_same_bits_again(tiny_system, sampler):
    own_steps = tiny_system.config.diffusion.num_steps
    steps = own_steps if SAMPLERS[sampler].own_steps_only else 2
    options = {"seed": 5, "sampler": sampler, "samples": 2, "steps": steps}
    one, two = (_restorer(tiny_system)(IMAGE, **options) for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.deviation, two.deviation)
    assert np.isfinite(one.image).all()


@pytest.mark.faults
@pytest.mark.parametrize("sizes", ["1x1x1x1", "2x1x1x1", "1x2x1x1", "8x1x1x1", "1x1x1x8"])
def test_training_gives_the_same_bits_again(sizes, figure):
    steps = runpy.run_path(str(MESH_STEPS))
    mesh = steps["mesh_of"](*map(int, sizes.split("x")))
    (losses, trees, _), (others, again, _) = (
        steps["take_steps"](steps["tiny_system"](), mesh) for _ in range(2)
    )
    np.testing.assert_array_equal(losses, others)
    jax.tree.map(np.testing.assert_array_equal, trees, again)
    figure(f"training on {sizes} (data x fsdp x tensor x spatial): again bit for bit")


@pytest.mark.parametrize("form", ["folder", "records"])
def test_a_prepared_set_has_the_same_bytes_again(tiny_config, photo_folder, tmp_path, form):
    tiny_config.prepare.recipes = ("noise", "haze + rain", "low_light + camera_noise + jpeg")
    tiny_config.prepare.format = form
    photos = PhotoFolder(photo_folder)

    def made(name: str, seed: int) -> dict[str, bytes]:
        tiny_config.prepare.seed = seed
        prepare(photos, tiny_config, tmp_path / name)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        return {path.relative_to(tmp_path / name).as_posix(): path.read_bytes() for path in files}

    first = made("one", 3)
    assert first == made("two", 3)
    assert first != made("three", 4)
