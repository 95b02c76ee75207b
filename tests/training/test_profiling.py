"""Traces of chosen steps, and idle time read from them."""

import time

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch import trace_idle
from launch.trace_idle import covered, device_idle, merge
from tpgdiff_jax.training.profiling import TraceWindow


@pytest.fixture(scope="module")
def step_fn():
    def train_step(x):
        return jax.lax.fori_loop(0, 20, lambda _, y: jnp.tanh(y @ y), x)

    return jax.jit(train_step)


def train(workdir, step_fn, pause, steps=8, first=3, last=6, start=1):
    x = jax.block_until_ready(step_fn(jnp.ones((256, 256))))
    with TraceWindow(workdir, first, last) as window:
        for step in range(start, steps + 1):
            with window.step(step) as traced:
                time.sleep(pause)
                x = traced.result = step_fn(x)
                if pause:
                    jax.block_until_ready(x)
    return workdir


def test_traces_the_steps_asked_for_and_sees_pauses(tmp_path, step_fn, capsys):
    (busy,) = device_idle(train(tmp_path / "busy", step_fn, pause=0))
    assert busy.device == "cpu:0"
    assert busy.program == "jit_train_step"
    assert busy.runs == 4
    assert 0 <= busy.idle_between <= busy.idle < 1
    (paused,) = device_idle(train(tmp_path / "paused", step_fn, pause=0.1))
    assert paused.runs == 4
    # Three pauses lie between four steps.
    assert 0.3 <= paused.idle_between * paused.seconds < paused.seconds
    assert paused.idle_between > busy.idle_between
    assert trace_idle.main([str(tmp_path / "paused")]) == 0
    assert f"{paused.idle_between:.2%}" in capsys.readouterr().out


def test_a_trace_that_is_cut_off_is_one_sentence(tmp_path, capsys):
    (tmp_path / "a.xplane.pb").write_bytes(b"half a trace")
    assert trace_idle.main([str(tmp_path)]) == 2
    assert "a.xplane.pb is damaged or no profiler trace" in capsys.readouterr().err


def test_a_resumed_run_traces_what_is_left_of_the_window(tmp_path, step_fn):
    (found,) = device_idle(train(tmp_path, step_fn, pause=0, start=5))
    assert found.runs == 2
    assert trace_idle.newest_trace(tmp_path).is_relative_to(tmp_path / "profile")


def test_a_run_that_ends_inside_the_window_leaves_a_trace(tmp_path, step_fn):
    (found,) = device_idle(train(tmp_path, step_fn, pause=0.01, steps=4))
    assert found.runs == 2


def test_nothing_is_written_outside_the_window_or_by_others(tmp_path, step_fn, monkeypatch):
    train(tmp_path, step_fn, pause=0, first=None, last=None)
    train(tmp_path, step_fn, pause=0, first=20, last=30)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    train(tmp_path, step_fn, pause=0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="no profiler trace"):
        device_idle(tmp_path)


@pytest.mark.parametrize("steps", [(0, 3), (5, 4), (None, 4), (3, None)])
def test_no_range_of_steps(tmp_path, steps):
    with pytest.raises(ValueError, match="profile_steps"):
        TraceWindow(tmp_path, *steps)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))), st.integers(0, 30))
def test_cover_counts_every_moment_once(pairs, first):
    intervals = [(min(pair), max(pair)) for pair in pairs]
    last = first + 25
    moments = {m for start, end in intervals for m in range(start, end) if first <= m < last}
    assert covered(merge(intervals), first, last) == len(moments)


class FakeEvent:
    def __init__(self, start, end, **stats):
        self.start_ns, self.duration_ns, self.stats = start * 1e9, (end - start) * 1e9, stats


class FakeTrace:
    """A GPU as its plane looks: one line per stream, one event per kernel."""

    def __init__(self, **run):
        step = {"hlo_module": "jit_step", "hlo_op": "dot"}
        kernels = [
            FakeEvent(0, 4, **step, **({"run_id": 1} if run else {})),
            FakeEvent(5, 8, **step, **({"run_id": 1} if run else {})),
            FakeEvent(8.5, 9, hlo_module="jit_other", hlo_op="copy", **run),
            FakeEvent(9, 10, **step, **({"run_id": 2} if run else {})),
        ]
        self.planes = [
            FakePlane("/device:GPU:0", {"Stream #1": kernels, "Steps": [FakeEvent(0, 10, **step)]}),
            FakePlane("/host:CPU", {"python": [FakeEvent(0, 10)]}),
        ]


class FakePlane:
    def __init__(self, name, lines):
        self.name = name
        self.lines = [FakeLine(name, events) for name, events in lines.items()]


class FakeLine:
    def __init__(self, name, events):
        self.name, self.events = name, events


@pytest.mark.parametrize("run", [{"run_id": 7}, {}])
def test_planes_of_an_accelerator(tmp_path, monkeypatch, run):
    path = tmp_path / "host.xplane.pb"
    path.write_bytes(b"")
    trace = type("Data", (), {"from_file": staticmethod(lambda _: FakeTrace(**run))})
    monkeypatch.setattr(jax.profiler, "ProfileData", trace)
    (found,) = device_idle(tmp_path)
    assert (found.device, found.program, found.seconds) == ("GPU:0", "jit_step", 10)
    assert found.idle == pytest.approx(0.15)  # 4..5 within a run, 8..8.5 between two
    assert found.idle_between == (pytest.approx(0.05) if run else None)
