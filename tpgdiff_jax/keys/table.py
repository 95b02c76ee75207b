"""All keys of the configuration, in the order in which they are explained."""

from tpgdiff_jax.keys.checks import one_of, pair_of, text, tuple_of, whole
from tpgdiff_jax.keys.group import Group, Key
from tpgdiff_jax.keys.model import DIFFUSION, MODEL, PRIORS
from tpgdiff_jax.keys.training import CHECKPOINT, DATA, EMA, LOG, LOSS, OPTIM, STAGE_ONE
from tpgdiff_jax.keys.use import BENCHMARK, EVAL, MESH, PREPARE, SEED, SHARDING

# Defaults are the released program's settings: TPGDiff (arXiv 2601.20306) and its training recipe.
TABLE = Group(
    "The experiment as a whole.",
    seed=Key(0, SEED, "of everything that training draws"),
    stage=Key("diffusion", one_of, "priors: stage one; diffusion: stage two; both: in turn"),
    init_from=Key(
        "",
        text(),
        "published weights that a new run of stage two starts from (fine-tuning): a file, a "
        "finished run, or default",
        free=True,
    ),
    init_anew=Key(
        (),
        tuple_of(text()),
        "parts of those weights that start anew, by how their names begin",
        example=("structure/encoder",),
        free=True,
    ),
    profile_steps=Key(
        (),
        pair_of(whole(1), may_lack=True),
        "first and last step of a JAX profiler trace; (): none",
        example=(100, 110),
        free=True,
    ),
    model=MODEL,
    priors=PRIORS,
    diffusion=DIFFUSION,
    data=DATA,
    loss=LOSS,
    optim=OPTIM,
    ema=EMA,
    stage_one=STAGE_ONE,
    checkpoint=CHECKPOINT,
    log=LOG,
    eval=EVAL,
    benchmark=BENCHMARK,
    prepare=PREPARE,
    mesh=MESH,
    sharding=SHARDING,
)
KEYS: dict[str, Key] = dict(TABLE.walk())
