"""The clock of the training loop, and estimates of operations."""

import math
import resource
import time

import jax
import jax.numpy as jnp
import pytest

from tpgdiff_jax.training import speed
from tpgdiff_jax.training.speed import Lead, StepClock, peak_tflops, step_flops


class FakeTime:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("most", [0, 1, 3])
def test_the_host_is_only_a_few_steps_ahead(most):
    done, lead = [], Lead(most)

    class Result:
        def __init__(self, step):
            self.step = step

        def block_until_ready(self):
            done.append(self.step)

    for step in range(6):
        lead.queued(Result(step))
        assert done == list(range(step + 1 - most))


def test_split_adds_up_and_starts_anew():
    now = FakeTime()
    clock = StepClock(seconds=now)
    for _ in range(4):
        with clock.waiting_for_data():
            now.now += 0.5
        with clock.waiting_for_devices():
            now.now += 1.0
        now.now += 0.25
    with clock.left_out():
        now.now += 60
    found = clock.summary(steps=4, images=28)
    assert found["step_seconds"] == 1.75
    assert found["data_wait_seconds"] == 0.5
    assert found["device_wait_seconds"] == 1.0
    assert found["other_seconds"] == 0.25
    assert found["images_per_second"] == 4.0
    assert found["memory_gib"] > 0.01
    assert "tflops_per_second" not in found
    now.now += 3
    again = clock.summary(1, 1)
    assert (again["step_seconds"], again["data_wait_seconds"]) == (3.0, 0.0)
    with pytest.raises(ValueError, match="0 steps"):
        clock.summary(0, 0)


def test_time_counts_even_if_data_fail():
    now = FakeTime()
    clock = StepClock(seconds=now)

    def no_more():
        with clock.waiting_for_data():
            now.now += 2
            return next(iter(()))

    with pytest.raises(StopIteration):
        no_more()
    assert clock.summary(1, 1)["data_wait_seconds"] == 2


def test_asynchronous_steps_are_whole_in_step_seconds():
    """Queued work is counted though its calls return at once: the report waits for it."""
    work = jax.jit(lambda x: jax.lax.fori_loop(0, 60, lambda _, y: jnp.tanh(y @ y), x))
    x = jax.block_until_ready(work(jnp.ones((256, 256))))
    alone = math.inf  # the least of three: other programs may run beside this one
    for _ in range(3):
        started = time.perf_counter()
        jax.block_until_ready(work(x))
        alone = min(alone, time.perf_counter() - started)
    clock = StepClock()
    for _ in range(5):
        with clock.waiting_for_data():
            time.sleep(0.001)
        with clock.waiting_for_devices():
            x = work(x)
    with clock.waiting_for_devices():
        jax.block_until_ready(x)
    found = clock.summary(5, 5)
    assert found["step_seconds"] > 0.3 * alone
    assert found["data_wait_seconds"] >= 0.001
    parts = ("data_wait_seconds", "device_wait_seconds", "other_seconds")
    assert sum(found[part] for part in parts) == pytest.approx(found["step_seconds"])


def test_flops_are_those_of_one_device(make_mesh):
    mesh = make_mesh(data=8)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x, w = jax.device_put(jnp.ones((64, 128)), rows), jnp.ones((128, 32))
    compiled = jax.jit(jnp.matmul).lower(x, w).compile()
    assert step_flops(compiled) == pytest.approx(2 * 64 * 128 * 32 / 8, rel=0.01)
    assert step_flops(compiled, loop_turns=3) == pytest.approx(3 * step_flops(compiled))
    assert step_flops(jax.jit(lambda x: x).lower(x).compile()) is None


@pytest.mark.parametrize("costs", [None, [], {}, {"flops": -1.0}, [{"flops": 8.0}]])
def test_flops_of_any_answer(costs):
    class Compiled:
        def cost_analysis(self):
            return costs

        def as_text(self):
            return "HloModule jit_step"

    assert step_flops(Compiled()) == (8.0 if costs == [{"flops": 8.0}] else None)


def test_utilisation_only_where_the_peak_is_known(monkeypatch):
    now = FakeTime()
    clock = StepClock(flops_per_step=3e12, seconds=now)
    now.now += 2
    found = clock.summary(2, 2)
    assert found["tflops_per_second"] == pytest.approx(3.0)
    assert "flop_utilisation" not in found
    monkeypatch.setattr(speed, "PEAK_TFLOPS", (("cpu", 30.0),))
    now.now += 1
    assert clock.summary(1, 1)["flop_utilisation"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("cpu", None),
        ("TPU v3", None),
    ],
)
def test_peaks(kind, peak):
    assert peak_tflops(kind) == peak


class FakeDevice:
    def __init__(self, stats):
        self.memory_stats = lambda: stats


def test_memory_of_the_fullest_device(monkeypatch):
    full, empty = {"peak_bytes_in_use": 3 * 2**30}, {"peak_bytes_in_use": 2**30}
    monkeypatch.setattr(jax, "local_devices", lambda: [FakeDevice(empty), FakeDevice(full)])
    assert speed.memory_gib() == 3.0
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    monkeypatch.setattr(jax, "local_devices", lambda: [FakeDevice(None)])
    assert speed.memory_gib() == pytest.approx(process, rel=0.1)


def test_what_onednn_computes_is_not_counted_as_nothing():
    class Compiled:
        def cost_analysis(self):
            return {"flops": 8.0}

        def as_text(self):
            return 'custom-call(...), custom_call_target="tpgdiff_onednn_convolution"'

    assert step_flops(Compiled()) is None
