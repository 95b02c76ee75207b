"""Restore a batch step by step: a program serves every sampler, number of steps, seed and strength.

`batch.run_batch` is the whole chain in one program, for who runs the same chain again and again.
Here the table of the sampler is an argument, so that a size needs its programs once.  Who does not
watch waits for nothing: all steps are one call.  Who watches is told of each step, by the same
programs, and gets the same pixels.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tpgdiff_jax.diffusion import samplers
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.inference import batch, results
from tpgdiff_jax.inference.guidance import AS_TRAINED, Guidance
from tpgdiff_jax.inference.kept_programs import KeptPrograms
from tpgdiff_jax.inference.passes import ONCE, Passes, shown
from tpgdiff_jax.inference.results import RestoredBatch
from tpgdiff_jax.models.tpgdiff import TPGDiff
from tpgdiff_jax.priors import Priors

# (steps done, steps in all): called before the first step and after each; may raise to stop.
Watch = Callable[[int, int], None]
_ROWS = 128  # of a table: few numbers of rows, so few programs


@flax.struct.dataclass
class Known:
    """What stays the same in all steps of one view of a batch.

    Attributes:
      mu: degraded images, one copy for each sample drawn together, float32 [B * at_once, H, W, 3].
      priors: of these copies.
      keys: of the samples, [turns, B * at_once].
      logits: the degradation classifier's [B, classes]; None where there is none.
      needed: which images this pass is for, bool [B].
    """

    mu: jax.Array
    priors: Priors
    keys: jax.Array
    logits: jax.Array | None
    needed: jax.Array


def run_stepwise(
    variables: Any,
    lq: jax.Array,
    keys: jax.Array,
    *,
    model: TPGDiff,
    sde: IRSDE,
    sampler: str,
    steps: int,
    prediction: str,
    clamp: bool = False,
    tile: int = 0,
    windows: int = 1,
    guidance: Guidance = AS_TRAINED,
    samples: int = 1,
    at_once: int | None = None,
    ensemble: int = 1,
    passes: Passes = ONCE,
    mesh: Mesh | None = None,
    watch: Watch | None = None,
) -> RestoredBatch:
    """Restore images; arguments and result as of `batch.run_batch`.

    Args:
      watch: is told of every step; the samples of all turns and views count.  Steps of a further
        pass are added to all of them once it is needed.

    Raises:
      Exception: what `watch` raises.
    """
    at_once = at_once or samples
    table = _filled(samplers.step_table(sampler, sde, steps))
    options = {"model": model, "sde": sde, "prediction": prediction, "clamp": clamp}
    options |= {"tile": tile, "windows": windows, "mesh": mesh}
    branches = jax.tree.structure(guidance)
    # One program for all numbers of passes; but devices need not agree on what nobody asked for.
    repeats = passes.most > 1 or mesh is None
    KEPT.make_room((lq.shape, lq.dtype, samples, at_once, branches, repeats, *options.values()))
    turns = range(samples // at_once)
    shared = {"model": model, "samples": samples, "at_once": at_once, "repeats": repeats}
    classes = passes.filled()
    done = total = 0

    def tell(waited_for):
        if watch is not None:
            jax.block_until_ready(waited_for)
            watch(done, total)

    def draw(known, turn):
        nonlocal done
        state = begin(known, turn, sde=sde, tile=tile, mesh=mesh)
        for first, end in [(0, steps)] if watch is None else [(n, n + 1) for n in range(steps)]:
            tell(state)
            state = advance(variables, known, state, guidance, table, turn, first, end, **options)
            done += end - first
        return state.y

    def after_pass(number, image, found):  # a function, so that nothing of a pass outlives it
        nonlocal total
        upright = prepare(variables, image, keys, 0, number, classes, **shared)
        # Who does not watch does not wait: steps that nobody needs are skipped on the device.
        if watch is not None and not np.any(upright.needed):
            return found
        total += ensemble * len(turns) * steps
        drawn = [draw(upright, turn) for turn in turns]
        for view in range(1, ensemble):
            known = prepare(variables, image, keys, view, number, classes, **shared)
            known = known.replace(needed=upright.needed)
            drawn = [add_view(drawn[turn], draw(known, turn), view) for turn in turns]
        return finish(upright, drawn, found, ensemble, at_once=at_once)

    found = after_pass(0, in_unit_range(lq), None)
    for number in range(1, passes.most):
        found = after_pass(number, found.restored, found)
    tell(found)
    return rounded(found, dtype=jnp.dtype(lq.dtype))


def _filled(table: samplers.StepTable) -> samplers.StepTable:
    """Fill a table up with rows that no step takes."""
    missing = -len(table.time) % _ROWS
    return jax.tree.map(lambda a: np.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1)), table)


@functools.partial(jax.jit, static_argnames=("model", "samples", "at_once", "repeats"))
def prepare(
    variables: Any,
    image: jax.Array,
    keys: jax.Array,
    view: int,
    number: int,
    classes: np.ndarray,
    *,
    model: TPGDiff,
    samples: int,
    at_once: int,
    repeats: bool,
) -> Known:
    """Compute what all steps of a view share.

    Args:
      image: what the pass begins with, float32 [B, H, W, 3] in [0, 1].
      view: as of `batch.mirrored`; traced.
      number: of the pass, from 0, which every image needs; traced.
      classes: what a further pass is for, of `Passes.filled`; traced.
      repeats: whether there may be a further pass.
      The others as of `run_stepwise`.
    """
    mu, priors, logits = batch.prepare(model, variables, batch.mirrored(image, view), at_once)
    needed = jnp.full(len(image), True)
    if repeats and logits is not None:
        needed = (number == 0) | shown(logits, classes)
    return Known(mu, priors, batch.keys_by_turn(keys, samples, at_once), logits, needed)


@functools.partial(jax.jit, static_argnames=("sde", "tile", "mesh"))
def begin(known: Known, turn: int, *, sde: IRSDE, tile: int, mesh: Mesh | None) -> samplers.State:
    """Return the state of a turn's samples before the first step."""
    state = samplers.begin(sde, known.mu, known.keys[turn])
    return state if tile else jax.tree.map(batch.placer(mesh, by_rows=True), state)


@functools.partial(
    jax.jit,
    static_argnames=("model", "sde", "prediction", "clamp", "tile", "windows", "mesh"),
    donate_argnames="state",
)
def advance(
    variables: Any,
    known: Known,
    state: samplers.State,
    guidance: Guidance,
    table: samplers.StepTable,
    turn: int,
    first: int,
    end: int,
    *,
    model: TPGDiff,
    sde: IRSDE,
    prediction: str,
    clamp: bool,
    tile: int,
    windows: int,
    mesh: Mesh | None,
) -> samplers.State:
    """Take some steps, or none where no image needs this pass.

    Args:
      variables, guidance: as of `run_stepwise`.
      known, state: of `prepare` and `begin`.
      table: of all steps, `StepTable`.
      turn: whose keys draw the noise; traced.
      first, end: the rows of the table to take, `first` to `end - 1`; traced.
      model, sde, prediction, clamp, tile, windows, mesh: as of `run_stepwise`.
    """
    network = batch.network_of(model, variables, known.priors, guidance, tile, windows, mesh)
    place = batch.placer(None if tile else mesh, by_rows=True)
    mu, keys = place(known.mu), known.keys[turn]

    def step(number, state):
        row = jax.tree.map(lambda column: column[number], table)
        state = samplers.take_step(network, sde, mu, keys, state, row, prediction, clamp)
        return jax.tree.map(place, state)

    return jax.lax.fori_loop(first, jnp.where(known.needed.any(), end, first), step, state)


@functools.partial(jax.jit, donate_argnames="total")
def add_view(total: jax.Array, y: jax.Array, view: int) -> jax.Array:
    """Add the last state `y` of a further view, turned back, to the sum of those before."""
    return total + batch.mirrored(y, view)


@functools.partial(jax.jit, static_argnames="at_once")
def finish(
    known: Known,
    drawn: list[jax.Array],
    before: RestoredBatch | None,
    ensemble: int,
    *,
    at_once: int,
) -> RestoredBatch:
    """Turn the last states `y` of every turn, summed over all views, into float32 results.

    Args:
      known: of the image as it is.
      drawn: the sums.
      before: results of the passes before.
      ensemble: number of views.
      at_once: as of `run_stepwise`.
    """
    samples = jnp.stack([known.mu + y / ensemble for y in drawn])
    found = results.summarised(samples, known.logits, at_once)
    return found if before is None else results.merged(known.needed, found, before)


in_unit_range = jax.jit(results.unit_range)
rounded = jax.jit(results.rounded, static_argnames="dtype")
KEPT = KeptPrograms(in_unit_range, prepare, begin, advance, add_view, finish, rounded)
