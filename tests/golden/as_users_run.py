"""Compute golden numbers as users do: JAX's own optimisation level, precision and devices.

    python tests/golden/as_users_run.py

Prints one JSON line: name -> largest difference from the released program, relative to its
largest value.
"""

import json
import pathlib
import runpy

import jax
import numpy as np

from tpgdiff_jax.checkpoints.convert import from_reference, unet_for
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.diffusion.samplers import sample
from tpgdiff_jax.priors import Priors

GOLDEN, SEED = pathlib.Path(__file__).parent, 7


def load(name):
    """Return the arrays of one golden file, image batches as NHWC."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {k: np.moveaxis(v, -3, -1) if v.ndim >= 4 else v for k, v in file.items()}


def difference(actual, desired):
    """Return the largest difference, relative to the largest desired value."""
    actual, desired = np.asarray(actual, np.float64), np.asarray(desired, np.float64)
    return float(np.abs(actual - desired).max() / np.abs(desired).max())


def main():
    """Run one network and one whole chain of the released sampler."""
    fill = runpy.run_path(str(GOLDEN / "weights.py"))["fill"]
    weights = fill(GOLDEN / "keys" / "unet_nf32.json", SEED)
    model, params = unet_for(weights), from_reference(weights, "unet")

    def priors_of(arrays):
        names = ("degradation", "semantic", "structure_tokens")
        return Priors(*(arrays[name] for name in names))

    given = load("unet_nf32")
    inputs = (given["xt"], given["cond"], given["t"], priors_of(given))
    answer = jax.jit(model.apply)({"params": params}, *inputs)

    given_chain = load("sampler_posterior")
    last = jax.tree.map(lambda leaf: 0.05 * leaf, params["final_conv"])
    params = params | {"final_conv": last}

    @jax.jit
    def restore(params, mu, priors, start_noise, noises):
        def denoise(x_t, mu, t):
            return model.apply({"params": params}, x_t, mu, t, priors)

        draws = {"start_noise": start_noise, "noises": noises}
        return sample("posterior", denoise, IRSDE(), mu, jax.random.key(0), **draws)

    names = ("start_noise", "noises")
    draws = [given_chain[name] for name in names]
    restored = restore(params, given_chain["lq"], priors_of(given_chain), *draws)
    found = {
        "unet": difference(answer, given["out"]),
        "chain": difference(restored, given_chain["out"]),
        "devices": jax.device_count(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
