"""The structural prior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpgdiff_jax.priors.structural import StructuralPrior, difference_of_gaussians, resize_maps


def test_difference_of_gaussians_of_the_released_program(golden, assert_near):
    arrays = golden("structure_64")
    assert_near(difference_of_gaussians(arrays["lq"]), arrays["dog"], 1e-5)


def test_tokens_of_the_released_program(golden, golden_weights, assert_near):
    arrays = golden("structure_64")
    params = released_params(golden_weights("structure"))
    prior = StructuralPrior(image_size=64)
    tokens = jax.jit(prior.apply)({"params": params}, arrays["lq"], arrays["depth"], arrays["seg"])
    assert_near(tokens, arrays["tokens"], 1e-4)


def released_params(weights):
    """Lay the released program's structural weights out as ours."""

    def dense(key):
        return {"kernel": weights[f"{key}.weight"].T, "bias": weights[f"{key}.bias"]}

    def norm(key):
        return {"scale": weights[f"{key}.weight"], "bias": weights[f"{key}.bias"]}

    def attention(key):
        kernels = np.split(weights[f"{key}.in_proj_weight"], 3)
        biases = np.split(weights[f"{key}.in_proj_bias"], 3)
        qkv = {
            name: {"kernel": kernel.T, "bias": bias}
            for name, kernel, bias in zip("qkv", kernels, biases, strict=True)
        }
        return qkv | {"out": dense(f"{key}.out_proj")}

    def mlp(key):
        return {
            "norm": norm(f"{key}.0"),
            "dense_in": dense(f"{key}.1"),
            "dense_out": dense(f"{key}.3"),
        }

    encoder = {
        f"conv_{index}": {
            "kernel": weights[f"struct_encoder.conv.{2 * index}.weight"].transpose(2, 3, 1, 0),
            "bias": weights[f"struct_encoder.conv.{2 * index}.bias"],
        }
        for index in range(12)
    }
    encoder["proj"] = {
        "kernel": weights["struct_encoder.proj.weight"][:, :, 0, 0].T,
        "bias": weights["struct_encoder.proj.bias"],
    }
    connector = {
        "latents": weights["connector.latent_tokens"],
        "cross_attention": attention("connector.cross_attn"),
        "self_attention_1": attention("connector.self_attn1"),
        "self_attention_2": attention("connector.self_attn2"),
        "norm_queries": norm("connector.ln_q"),
        "norm_keys": norm("connector.ln_kv"),
        "norm_self_1": norm("connector.ln_self1"),
        "norm_self_2": norm("connector.ln_self2"),
    }
    connector |= {f"mlp_{index}": mlp(f"connector.mlp{index + 1}") for index in range(3)}
    return {"modality": weights["modality_embed"], "encoder": encoder, "connector": connector}


def test_cues_are_checked():
    image = jnp.zeros((1, 16, 16, 3))
    with pytest.raises(ValueError, match=r"priors\.cues"):
        jax.eval_shape(StructuralPrior(cues=("edges",)).init, jax.random.key(0), image)
    with pytest.raises(ValueError, match="no depth map was given"):
        jax.eval_shape(StructuralPrior(cues=("depth", "dog")).init, jax.random.key(0), image)


def test_nearest_resize_keeps_labels():
    labels = jnp.arange(12.0).reshape(1, 3, 4, 1)
    resized = resize_maps(labels, 7, "nearest")
    assert set(np.unique(resized)) <= set(np.unique(labels))
    assert resized.shape == (1, 7, 7, 1)
