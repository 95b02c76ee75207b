"""The table of layouts, against arithmetic done by hand."""

import jax
import jax.numpy as jnp
import optax
import pytest

from tpgdiff_jax.distributed import sharding
from tpgdiff_jax.distributed.describe import bytes_per_device, describe_shardings
from tpgdiff_jax.training.state import create_state


@pytest.fixture
def layout():
    mesh = sharding.make_mesh({"data": 1, "fsdp": 4, "tensor": 2, "spatial": 1})
    params = {
        "unet": {"conv": {"kernel": jnp.zeros((3, 3, 8, 16)), "bias": jnp.zeros(16)}},
        "encoder": {"classes": {"kernel": jnp.zeros((8, 5))}},
    }
    state = jax.eval_shape(lambda: create_state(params, optax.adamw(1e-3)))
    rules = (("conv/kernel", "tensor+fsdp", 0), ("kernel", "fsdp", 0), (".*", "replicate"))
    return state, sharding.state_shardings(state, mesh, rules), mesh


def row_of(text, *words):
    rows = [line for line in text.splitlines() if all(word in line for word in words)]
    assert len(rows) == 1, text
    return rows[0]


def test_bytes_on_each_device(layout):
    state, shardings, _ = layout
    one = 4 * (3 * 3 * 8 * 16 / 8 + 16 + 8 * 5 / 4)
    assert bytes_per_device(state.params, shardings.params) == one
    # Step and Adam's count are numbers of four bytes.
    assert bytes_per_device(state, shardings) == 4 * one + 8


def test_networks_totals_and_batch_have_their_lines(layout):
    state, shardings, mesh = layout
    batch = {"gt": jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.uint8)}
    text = describe_shardings(state, shardings, mesh, batch)
    assert "data=1 x fsdp=4 x tensor=2 x spatial=1: 8 cpu" in text
    kernel = row_of(text, "unet", "outputs / tensor=2, inputs / fsdp=4")
    assert "1,152" in kernel
    assert "576 B" in kernel
    assert "conv/kernel [3, 3, 8, 16]" in kernel
    assert "64 B" in row_of(text, "unet", "whole on every device")
    assert "40 B" in row_of(text, "encoder", "inputs / fsdp=4", "classes/kernel [8, 5]")
    for name, count, whole, local in (
        ("params", "1,208", "4.7 KiB", "680 B"),
        ("ema", "1,208", "4.7 KiB", "680 B"),
        ("opt_state", "2,417", "9.4 KiB", "1.3 KiB"),
    ):
        row = row_of(text, name, count)
        assert row.split("  ")[-1].strip() == local
        assert whole in row
    assert "6.0 KiB" in row_of(text, "gt", "[8, 32, 32, 3]", "[2, 32, 32, 3]")
