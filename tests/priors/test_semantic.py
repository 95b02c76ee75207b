"""The semantic prior against the released program, and what teaches it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tpgdiff_jax.checkpoints.convert import convert
from tpgdiff_jax.priors.semantic import SemanticPrior, distillation_loss, unit_length

GOLDEN = [("prior_tiny", 2), ("prior_vitb32", 12)]

vectors = hnp.arrays(np.float32, (3, 6), elements=st.floats(-100, 100, width=32))


@pytest.mark.parametrize(("name", "heads"), GOLDEN)
def test_student_and_teacher_answer_as_in_the_released_program(
    golden, golden_weights, assert_near, name, heads
):
    arrays = golden(name)
    converted = convert(golden_weights(name), "priors", {"num_attention_heads": heads})
    lq, gt = arrays["lq"].astype(np.float32), arrays["gt"].astype(np.float32)
    student, teacher = converted.modules["student"], converted.modules["teacher"]
    assert student.layers == (2 if name == "prior_tiny" else 12)
    params = {"student": converted.params["student"]}
    seen = jax.jit(SemanticPrior(student).apply)({"params": params}, lq)
    taught = jax.jit(teacher.apply)({"params": converted.params["teacher"]}, gt)
    assert_near(seen, arrays["z_S"], 1e-4)
    assert_near(unit_length(taught), arrays["z_T"], 1e-4)
    loss = distillation_loss(seen, taught).mean()
    np.testing.assert_allclose(loss, arrays["content_loss"], rtol=1e-4, atol=1e-4)


@given(student=vectors, teacher=vectors)
def test_the_loss_lies_between_0_and_2_for_any_vectors(student, teacher):
    loss = distillation_loss(jnp.asarray(student), jnp.asarray(teacher))
    assert loss.shape == (3,)
    assert ((loss >= -1e-6) & (loss <= 2 + 1e-6)).all()


@given(vector=vectors, scale=st.floats(0.01, 100))
def test_only_the_direction_counts(vector, scale):
    vector[:, 0] += 300  # no zeros
    same = distillation_loss(jnp.asarray(scale * vector), jnp.asarray(vector))
    np.testing.assert_allclose(same, 0, atol=2e-6)
    opposite = distillation_loss(jnp.asarray(-scale * vector), jnp.asarray(vector))
    np.testing.assert_allclose(opposite, 2, atol=2e-6)


def test_the_loss_is_pytorchs_cosine():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    student, teacher = (rng.standard_normal((5, 32)).astype(np.float32) for _ in range(2))
    cosine = torch.nn.functional.cosine_similarity(torch.tensor(student), torch.tensor(teacher))
    np.testing.assert_allclose(distillation_loss(student, teacher), 1 - cosine, atol=1e-6)


def test_no_gradient_flows_into_the_teacher():
    rng = np.random.default_rng(1)
    student, teacher = (jnp.asarray(rng.standard_normal((2, 8)), jnp.float32) for _ in range(2))
    total = jax.grad(lambda s, t: distillation_loss(s, t).sum(), argnums=(0, 1))
    into_student, into_teacher = total(student, teacher)
    assert (into_teacher == 0).all()
    assert (into_student != 0).any(axis=-1).all()
    # The gradient turns the vector, it does not stretch it.
    np.testing.assert_allclose((into_student * student).sum(axis=-1), 0, atol=1e-6)


def test_zero_vectors_have_loss_1_and_a_finite_gradient():
    zero, one = jnp.zeros((1, 4)), jnp.ones((1, 4))
    for student, teacher in ((zero, one), (one, zero), (zero, zero)):
        loss, gradient = jax.value_and_grad(lambda s, t: distillation_loss(s, t).sum())(
            student, teacher
        )
        assert loss == 1
        assert jnp.isfinite(gradient).all()
    np.testing.assert_array_equal(unit_length(zero), zero)


def test_unit_length_is_computed_in_float32():
    vector = jnp.full((1, 512), 200.0, jnp.float16)  # its squares overflow in float16
    unit = unit_length(vector)
    assert unit.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(unit), 1, rtol=1e-6)
