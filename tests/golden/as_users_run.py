"""Compute golden numbers as users do: JAX's own optimisation level, precision and devices.

    python tests/golden/as_users_run.py

Prints one JSON line: name -> largest difference from the released program, relative to its
largest value.
"""

import functools
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
    """Run one network and two whole chains of the released samplers."""
    fill = runpy.run_path(str(GOLDEN / "weights.py"))["fill"]
    weights = fill(GOLDEN / "keys" / "unet_nf32.json", SEED)
    model, params = unet_for(weights), from_reference(weights, "unet")

    def priors_of(arrays):
        names = ("degradation", "semantic", "structure_tokens")
        return Priors(*(arrays[name] for name in names))

    given = load("unet_nf32")
    inputs = (given["xt"], given["cond"], given["t"], priors_of(given))
    answer = jax.jit(model.apply)({"params": params}, *inputs)

    last = jax.tree.map(lambda leaf: 0.05 * leaf, params["final_conv"])
    params = params | {"final_conv": last}

    @functools.partial(jax.jit, static_argnums=0)
    def restore(name, params, mu, priors, start_noise, noises):
        def denoise(x_t, mu, t):
            return model.apply({"params": params}, x_t, mu, t, priors)

        draws = {"start_noise": start_noise, "noises": noises}
        return sample(name, denoise, IRSDE(), mu, jax.random.key(0), **draws)

    def chain(name, file):
        given = load(file)
        draws = (given["start_noise"], given["noises"])
        restored = restore(name, params, given["lq"], priors_of(given), *draws)
        return difference(restored, given["out"])

    found = {
        "unet": difference(answer, given["out"]),
        "posterior": chain("posterior", "sampler_posterior"),
        "euler_sde": chain("euler_sde", "sampler_sde"),
        "devices": jax.device_count(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
