"""Checkpoints of a run: what stays, what is loud, what damage does, other meshes."""

import errno
import gc
import json
import logging
import pathlib
import shutil
import subprocess
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from tpgdiff_jax.reporting.errors import RunStoppedError
from tpgdiff_jax.runs import apart, checksums, manager
from tpgdiff_jax.runs.keeping import TEST
from tpgdiff_jax.runs.manager import RunCheckpoints
from tpgdiff_jax.runs.reading import CheckpointError, abstract
from tpgdiff_jax.runs.step_folder import METADATA, read_json
from tpgdiff_jax.training.state import create_state


def make_state(value: float = 0.0, width: int = 8):
    kernel = jnp.full((16, width), value, jnp.float32)
    params = {"unet": {"kernel": kernel, "bias": jnp.arange(width) + kernel[0]}}
    return create_state(params, optax.adamw(1e-3))


def shapes(state, sharding=None):
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return abstract(state, jax.tree.map(lambda _: sharding, state))


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)


def saved(folder, steps, keep=10):
    with RunCheckpoints(folder, keep=keep, metadata={"versions": {"jax": "1"}}) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"batches": step})
    return folder


def test_round_trip_with_data_and_metadata(tmp_path):
    metadata = {"config": {"seed": 3}, "versions": {"jax": jax.__version__}}
    with RunCheckpoints(tmp_path, keep=2, metadata=metadata) as checkpoints:
        assert checkpoints.latest_step() is checkpoints.best_step() is None
        assert checkpoints.restore_latest(shapes(make_state())) is None
        checkpoints.save(7, make_state(0.5), {"batches": 7, "names": ["a"]})
    with RunCheckpoints(tmp_path, keep=2) as checkpoints:
        step, state, data = checkpoints.restore_latest(shapes(make_state()))
        assert (step, data) == (7, {"batches": 7, "names": ["a"]})
        assert_equal(state, make_state(0.5))
        assert read_json(epath.Path(tmp_path / "7"), METADATA) == metadata
        assert_equal(checkpoints.restore(7, shapes(make_state()))[0], make_state(0.5))


def test_who_only_reads_finds_the_steps_and_makes_nothing(tmp_path):
    run, missing = saved(tmp_path / "run", [1, 2]), tmp_path / "missing"
    shutil.rmtree(run / "2" / "data")
    before = set(tmp_path.rglob("*"))
    with RunCheckpoints(run, keep=1, reads_only=True) as checkpoints:
        assert checkpoints.all_steps() == [1, 2]
        step, state, _ = checkpoints.restore_latest(shapes(make_state()))
        assert_equal((step, state), (1, make_state(1)))
    with RunCheckpoints(missing, keep=1, reads_only=True) as checkpoints:
        assert checkpoints.restore_latest(shapes(make_state())) is None
    assert set(tmp_path.rglob("*")) == before


def test_newest_and_best_stay_also_after_a_restart(tmp_path):
    psnr = {10: 20.0, 20: 25.0, 30: None, 40: float("nan"), 50: 22.0, 60: None}
    for part in ((10, 20, 30), (40, 50, 60)):
        with RunCheckpoints(tmp_path, keep=2) as checkpoints:
            for step in part:
                metrics = None if psnr[step] is None else {"psnr": psnr[step], "ssim": 0.5}
                checkpoints.save(step, make_state(step), {}, metrics)
            assert checkpoints.best_step() == 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["20", "50", "60"]
    with RunCheckpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(70, make_state(70), {}, {"psnr": 25.0})
        assert checkpoints.best_step() == checkpoints.latest_step() == 70
        checkpoints.wait()
        assert checkpoints.all_steps() == [60, 70]
    assert not (tmp_path / "20").exists()


def test_scores_of_another_test_set_are_not_compared(tmp_path):
    with RunCheckpoints(tmp_path, keep=3) as checkpoints:
        checkpoints.save(1, make_state(), {}, {"psnr": 40.0, TEST: 1.0})
        checkpoints.save(2, make_state(), {}, {"psnr": 21.0, TEST: 2.0})
        checkpoints.save(3, make_state(), {}, {"psnr": 20.0, TEST: 2.0})
        assert checkpoints.best_step() == 2


def test_metrics_need_psnr_and_steps_are_not_overwritten(tmp_path):
    with RunCheckpoints(saved(tmp_path, [1]), keep=1) as checkpoints:
        with pytest.raises(ValueError, match=r"'psnr'.*ssim"):
            checkpoints.save(2, make_state(), {}, {"ssim": 1.0})
        with pytest.raises(ValueError, match="holds step 1 already"):
            checkpoints.save(1, make_state(), {})
    with pytest.raises(ValueError, match=r"checkpoint\.keep=0"):
        RunCheckpoints(tmp_path, keep=0)


def test_state_may_be_donated_while_it_is_written(tmp_path):
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = {"x": jnp.arange(2_000_000, dtype=jnp.float32)}
    with RunCheckpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(5):
            state = step(state)
        jax.block_until_ready(state)
        checkpoints.wait()
        found, _ = checkpoints.restore(1, shapes(state))
    np.testing.assert_array_equal(found["x"], np.arange(2_000_000, dtype=np.float32))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB, where this machine lets us mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def noise(megabytes: int):
    rng = np.random.default_rng(0)
    return {"x": jnp.asarray(rng.standard_normal(megabytes * 2**18), jnp.float32)}


FULL = r"Step 2 could not be written to .*No space left.*the newest complete one is step 1"


def next_call(checkpoints, how):
    if how == "save":
        checkpoints.save(3, make_state(), {})
    while how == "check":
        checkpoints.check()


def test_a_state_that_does_not_fit_is_not_begun(small_disk):
    with RunCheckpoints(small_disk, keep=3) as checkpoints:
        checkpoints.save(1, make_state(), {})
        with pytest.raises(CheckpointError, match=FULL) as caught:
            checkpoints.save(2, noise(8), {})
        assert "it needs 8.0 MiB, 0." in str(caught.value)
        checkpoints.save(3, make_state(3), {})
    assert sorted(p.name for p in small_disk.iterdir()) == ["1", "3"]


@pytest.fixture
def unforeseen(monkeypatch):
    """Quotas, and other programs, that nobody knows of before the writing."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: types.SimpleNamespace(free=2**60))


@pytest.mark.usefixtures("unforeseen")
@pytest.mark.parametrize("how", ["save", "check"])
def test_full_disk_is_loud(small_disk, how):
    folder = small_disk / "checkpoints"
    with RunCheckpoints(folder, keep=3) as checkpoints:
        checkpoints.save(1, make_state(), {})
        checkpoints.save(2, noise(8), {}, {"psnr": 50.0})
        with pytest.raises(CheckpointError, match=FULL) as caught:
            next_call(checkpoints, how)
        assert str(folder) in str(caught.value)
        assert checkpoints.all_steps() == [1]
        assert checkpoints.best_step() is None
        # Once there is room again the run could go on.
        checkpoints.save(3, make_state(3), {})
    assert sorted(p.name for p in folder.iterdir()) == ["1", "3"]


@pytest.mark.usefixtures("unforeseen")
def test_full_disk_is_loud_at_the_end(small_disk):
    checkpoints = RunCheckpoints(small_disk, keep=3)
    checkpoints.save(1, make_state(), {})
    checkpoints.save(2, noise(8), {})
    with pytest.raises(CheckpointError, match=FULL):
        checkpoints.__exit__(None, None, None)
    with RunCheckpoints(small_disk, keep=3) as checkpoints:
        assert checkpoints.restore_latest(shapes(make_state()))[0] == 1


def test_failing_write_is_named(tmp_path, monkeypatch):
    """The same where nothing can be mounted: the disk is full as orbax renames the step."""

    async def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunCheckpoints(saved(tmp_path, [1]), keep=3) as checkpoints:
        monkeypatch.setattr("orbax.checkpoint._src.path.async_path.rename", full)
        checkpoints.save(2, make_state(), {})
        with pytest.raises(CheckpointError, match=r"Step 2 .*No space left.* step 1"):
            checkpoints.wait()
        checkpoints.check()  # raised once


def test_failed_write_does_not_hide_what_ended_the_run(tmp_path, monkeypatch):
    async def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("orbax.checkpoint._src.path.async_path.rename", full)
    checkpoints = RunCheckpoints(tmp_path, keep=3)
    checkpoints.save(2, make_state(), {})
    cause = KeyError("the cause")
    checkpoints.__exit__(KeyError, cause, None)
    assert "No space left" in "".join(cause.__notes__)


def files_of_a_step(folder: pathlib.Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def harm(path: pathlib.Path, how: str) -> None:
    if how == "missing":
        path.unlink()
        return
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = bytes([content[middle] ^ 16]) if content else b""
    path.write_bytes(
        {
            "empty": b"",
            "cut": content[:middle],
            "zeroed": bytes(len(content)),
            "flipped": content[:middle] + flipped + content[middle + 1 :],
        }[how]
    )


@pytest.fixture
def swept():
    """Collect what is left over, so that it is complained of here and not in a later test."""
    yield
    gc.collect()


# Where one array cannot be read, orbax drops the reads of the others half done.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "zeroed", "flipped"])
def test_any_harmed_file_costs_one_step_at_most(tmp_path, caplog, how):
    good = saved(tmp_path / "good", [10, 20])
    if how in ("missing", "empty", "cut"):  # found in steps of older versions, too
        (good / "20" / checksums.NAME).unlink()
    skipped = set()
    for name in files_of_a_step(good / "20"):
        folder = tmp_path / "harmed"
        shutil.copytree(good, folder)
        harm(folder / "20" / name, how)
        caplog.clear()
        with (
            caplog.at_level(logging.WARNING, logger="absl"),
            RunCheckpoints(folder, keep=3) as checkpoints,
        ):
            step, state, data = checkpoints.restore_latest(shapes(make_state()))
        # Some files are not needed for reading; but what is read is right.
        assert_equal(state, make_state(step))
        assert data == {"batches": step}
        if step == 10:
            skipped.add(name.split("/")[0] if "/" in name else name)
            assert f"Step 20 in {folder} cannot be read" in caplog.text
        shutil.rmtree(folder)
    assert {"data", "metadata", "state"} <= skipped


@pytest.mark.parametrize("item", ["state", "data", "metadata"])
def test_damaged_step_is_set_aside_when_its_number_is_saved_again(tmp_path, caplog, item):
    saved(tmp_path, [10, 20, 30])
    shutil.rmtree(tmp_path / "30" / item)
    (tmp_path / "20" / "data" / "metadata").write_text("{")
    (tmp_path / "40.orbax-checkpoint-tmp").mkdir()
    with (
        caplog.at_level(logging.WARNING, logger="absl"),
        RunCheckpoints(tmp_path, keep=2) as checkpoints,
    ):
        assert checkpoints.restore_latest(shapes(make_state()))[0] == 10
        assert f"Step 30 in {tmp_path} cannot be read: {item} is missing" in caplog.text
        assert f"Step 20 in {tmp_path} cannot be read: data/metadata is not what was" in caplog.text
        assert "Checkpoint 40" in caplog.text
        assert checkpoints.all_steps() == [10]
        assert (tmp_path / "30").is_dir()  # reading has changed nothing
        checkpoints.save(20, make_state(21), {"batches": 20})
        assert checkpoints.latest_step() == 20
    assert {p.name for p in tmp_path.iterdir()} == {"10", "20", "20.corrupt", "30.corrupt"}
    # The same once more, on top of what lies aside already.
    (tmp_path / "20" / "data" / "metadata").write_text("[]")
    with RunCheckpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore_latest(shapes(make_state()))[0] == 10
        checkpoints.save(20, make_state(22), {"batches": 20})
    assert (tmp_path / "20.corrupt.2" / "data" / "metadata").read_text() == "[]"
    with RunCheckpoints(tmp_path, keep=2) as checkpoints:
        step, state, _ = checkpoints.restore_latest(shapes(make_state()))
        assert step == 20
        assert_equal(state, make_state(22))


def test_harmed_scores_do_not_stop_a_run(tmp_path, caplog):
    with RunCheckpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, make_state(1), {}, {"psnr": 30.0})
        checkpoints.save(2, make_state(2), {}, {"psnr": 20.0})
    (tmp_path / "1" / "scores" / "metadata").write_text("{")
    with (
        caplog.at_level(logging.WARNING, logger="absl"),
        RunCheckpoints(tmp_path, keep=1) as checkpoints,
    ):
        assert "Step 1" in caplog.text
        assert checkpoints.best_step() == 2


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    saved(tmp_path, [1, 2])
    for step in ("1", "2"):
        shutil.rmtree(tmp_path / step / "state")
    with (
        RunCheckpoints(tmp_path, keep=2) as checkpoints,
        pytest.raises(CheckpointError, match=r"steps 1, 2.*state is missing.* Move .* away"),
    ):
        checkpoints.restore_latest(shapes(make_state()))


def test_processes_that_see_other_steps_do_not_each_go_on_from_its_own(tmp_path, monkeypatch):
    """The other process is faked; its network disk does not show the newest files yet."""
    saved(tmp_path, [1, 2])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(manager, "are_apart", lambda folder: False)
    seen = apart.FollowedSteps(epath.Path(tmp_path), only_whole=False)
    monkeypatch.setattr(RunCheckpoints, "_open", lambda self, keep: seen)

    def gathered(own):
        return np.stack([own, np.where(own == 2, -1, own)])

    monkeypatch.setattr(apart.multihost_utils, "process_allgather", gathered)
    with pytest.raises(RunStoppedError, match=r"do not see the same steps \(here: \[1, 2\]\)"):
        RunCheckpoints(tmp_path, keep=2)


def test_another_shape_is_a_mistake_not_damage(tmp_path):
    with RunCheckpoints(saved(tmp_path, [1, 2]), keep=2) as checkpoints:
        with pytest.raises(ValueError, match=r"params/unet/kernel is \(16, 8\) .* \(16, 4\) here"):
            checkpoints.restore_latest(shapes(make_state(width=4)))
        half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make_state())
        with pytest.raises(ValueError, match=r"unet/bias is float32 .* bfloat16 here"):
            checkpoints.restore_latest(shapes(half))
        more = make_state()
        more.params["new"] = jnp.zeros(3)
        with pytest.raises(ValueError, match="params/new is not in the checkpoint"):
            checkpoints.restore_latest(shapes(more))
        less = make_state()
        del less.ema["unet"]["bias"]
        with pytest.raises(ValueError, match="ema/unet/bias is not in this model"):
            checkpoints.restore_latest(shapes(less))


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 4}, {"data": 1}])
def test_restores_on_another_mesh(tmp_path, make_mesh, sizes):
    wide = make_mesh(data=2, fsdp=4)
    state = jax.device_put(
        make_state(1.5),
        jax.tree.map(
            lambda leaf: NamedSharding(
                wide, PartitionSpec("fsdp") if leaf.ndim else PartitionSpec()
            ),
            make_state(),
        ),
    )
    with RunCheckpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
    axis = list(sizes)[-1]
    other = jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(jax.sharding.AxisType.Auto,) * len(sizes),
        devices=jax.devices()[: int(np.prod(list(sizes.values())))],
    )
    where = jax.tree.map(
        lambda leaf: NamedSharding(
            other, PartitionSpec(*[None] * (leaf.ndim - 1), axis) if leaf.ndim else PartitionSpec()
        ),
        state,
    )
    with RunCheckpoints(tmp_path, keep=1) as checkpoints:
        _, found, _ = checkpoints.restore_latest(abstract(state, where))
    assert_equal(found, make_state(1.5))
    assert jax.tree.all(jax.tree.map(lambda leaf, s: leaf.sharding == s, found, where))


def test_metadata_is_plain_json_on_disk(tmp_path):
    saved(tmp_path, [3])
    assert json.loads((tmp_path / "3" / "metadata" / "metadata").read_text()) == {
        "versions": {"jax": "1"}
    }


def test_steps_removed_meanwhile_cost_no_later_one(tmp_path):
    folder = tmp_path / "checkpoints"
    with RunCheckpoints(folder, keep=2) as checkpoints:
        for step in (1, 2):
            shutil.rmtree(folder)
            checkpoints.save(step, make_state(step), {"batches": step})
            checkpoints.wait()
    with RunCheckpoints(folder, keep=2) as checkpoints:
        assert checkpoints.restore_latest(shapes(make_state()))[0] == 2
    with RunCheckpoints(folder, keep=2) as checkpoints:
        shutil.rmtree(tmp_path)
        with pytest.raises(CheckpointError, match="Step 3 could not be written"):
            checkpoints.save(3, make_state(3), {})
