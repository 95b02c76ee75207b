"""Keys of training: the examples, what is minimised, how, and what is kept of it."""

from typing import Any

from tpgdiff_jax.keys.checks import (
    Check,
    number,
    one_of,
    pair_of,
    share,
    some_of,
    text,
    tuple_of,
    whole,
)
from tpgdiff_jax.keys.group import Group, Key

_DECAY = number(least=0, below=1)


def _severities(most: float) -> Check:
    return pair_of(number(least=0, most=most))


DATA = Group(
    "Training examples, and how clean photos are degraded.",
    train_folder=Key("", text(), "photos to learn from, sub-folders included", free=True),
    train_sources=Key(
        (),
        tuple_of(text()),
        "more sources, each KIND:PATH[*WEIGHT], of pairs also pairs:PATH?lq=FOLDER&gt=FOLDER and "
        "pairs:LIST.txt, of TFDS KIND:PATH[::NAME]@SPLIT; kinds: photos pairs record_photos "
        "record_pairs tfds_photos tfds_pairs",
        example=("pairs:/data/rain",),
    ),
    eval_folder=Key(
        "",
        text(),
        "images never trained on: a folder of photos, or KIND:PATH as above; empty: no evaluation",
        free=True,
    ),
    degradations=Key(
        ("noise", "blur", "low_light", "haze", "rain"),
        some_of,
        "what is synthesised and classified, in the order of the labels",
    ),
    weights=Key(
        (),
        tuple_of(number(least=0)),
        "how often each degradation comes; (): equally often, in turns",
        example=(2.0, 1.0, 1.0, 1.0, 1.0),
    ),
    max_mixed=Key(1, whole(1), "up to so many degradations at once"),
    mix_share=Key(
        -1.0,
        number(most=1),
        "how often several come together; negative: every number up to `max_mixed` equally often",
    ),
    clean_share=Key(
        0.0, number(least=0, below=1), "examples left as they are; needs multi-hot labels"
    ),
    severity=Key((1.0, 5.0), _severities, "drawn uniformly; `low_light` from 1 up"),
    tone_jitter=Key(
        0.0, number(least=0), "random tone and colour of clean photos, for small collections"
    ),
    vivid_share=Key(0.0, share(), "examples made from a photo of full contrast"),
    soft_share=Key(0.0, share(), "examples made from a soft photo; these are never blurred"),
    pale_share=Key(0.0, share(), "examples made from a pale, grey photo; these are never hazy"),
    dark_share=Key(0.0, share(), "examples made from a dark, good rendering of the photo"),
    crop_size=Key(256, whole(1), "side of the training crops, pixels"),
    crop_share=Key(
        (),
        pair_of(number(above=0, most=1), may_lack=True),
        "crops of this share of the photo, resized to `crop_size`; (): not resized",
        example=(0.5, 1.0),
    ),
    batch_size=Key(8, whole(1), "examples per step, over all devices and processes"),
    workers=Key(
        0, whole(0), "processes that make batches; 0: threads of the main process", free=True
    ),
    read_threads=Key(2, whole(1), "of each worker", free=True),
    prefetch_mb=Key(64, whole(1), "examples made ahead by each worker, MiB", free=True),
    cache_mb=Key(256, whole(0), "decoded photos kept by each worker, MiB", free=True),
    max_bad_share=Key(
        0.1, share(), "files that cannot be used; a larger share stops the run", free=True
    ),
)

LOSS = Group(
    "What is minimised.",
    objective=Key(
        "optimum", one_of, "optimum: as the released program; residual: plain regression"
    ),
    distance=Key("l1", one_of, "log_l2 is proportional to the PSNR in dB"),
    time_power=Key(1.0, number(above=0), "1: uniform times; above: large times more often"),
    first_step_share=Key(0.0, share(), "examples trained at the last time, where sampling starts"),
    time_weighting=Key("uniform", one_of, "of the loss over times"),
    relative_power=Key(
        0.0, number(least=0), "divide by (`least_harm` + mean |degraded - clean|)^power"
    ),
    least_harm=Key(0.03, number(above=0), "keeps the weight of hardly degraded crops finite"),
    classification_weight=Key(
        0.02, number(least=0), "of the degradation classifier's cross-entropy"
    ),
)

OPTIM = Group(
    "The optimiser; learning rates are per step.",
    name=Key("adamw", one_of, "adamw: released program; muon learns more per step"),
    steps=Key(700_000, whole(1), "steps of the whole run"),
    learning_rate=Key(2e-4, number(above=0), "after the warm-up"),
    schedule=Key("cosine", one_of, "how the learning rate falls"),
    final_learning_rate=Key(1e-6, number(least=0), "cosine: at the last step"),
    milestones=Key(
        (),
        tuple_of(whole(1), rising=True),
        "multistep: steps that multiply the rate by `decay_factor`",
        example=(200_000, 400_000),
    ),
    decay_factor=Key(0.5, number(above=0, most=1), "multistep: see `milestones`"),
    warmup_steps=Key(0, whole(0), "the rate rises from 0 for so many steps"),
    b1=Key(0.9, _DECAY, "decay of the first moment"),
    b2=Key(0.99, _DECAY, "decay of the second moment"),
    weight_decay=Key(0.0, number(least=0), "decoupled, of matrices and kernels"),
    clip_norm=Key(0.0, number(least=0), "largest norm of a gradient; 0: no clipping"),
    accumulate=Key(
        1,
        whole(1),
        "parts a batch is computed in, in turn, to save memory; changes rounding only",
        free=True,
    ),
    non_finite=Key(
        "stop", one_of, "at a step with a NaN: stop the run, or skip the step", free=True
    ),
    max_skipped=Key(10, whole(0), "so many in a row are skipped; more stop the run", free=True),
)

EMA = Group(
    "Averages of the weights; the first is what is used and published.",
    decay=Key(0.995, _DECAY, "share of the old average that is kept, at most"),
    every_steps=Key(10, whole(1), "steps between two updates"),
    start_step=Key(100, whole(0), "until then the average becomes a copy whenever it is updated"),
    more_decays=Key(
        (),
        tuple_of(_DECAY),
        "further averages, each as large as the parameters",
        example=(0.9995,),
    ),
)


def _stage_one() -> Group:
    """Return the keys that stage one has of its own: 30 epochs in batches of 512."""
    towers: dict[str, Any] = {"batch_size": 512, "crop_size": 224, "crop_share": (0.9, 1.0)}
    optim = {
        "steps": 10_000,
        "learning_rate": 2e-5,
        "final_learning_rate": 0.0,
        "warmup_steps": 200,
        "b2": 0.999,
        "weight_decay": 0.05,
    }
    own = OPTIM.at(**optim)
    own.members["accumulate"] = Key(  # not free
        1, whole(1), "parts a batch is computed in, in turn, to save memory; each draws its dropout"
    )
    return Group(
        "What stage one does otherwise: these take the place of the keys of the same name.",
        data=DATA.only(*towers).at(**towers),
        optim=own,
        ema=EMA.at(decay=0.0, every_steps=1, start_step=0),
    )


STAGE_ONE = _stage_one()
CHECKPOINT = Group(
    "What a run keeps on disk.",
    free=True,
    every_steps=Key(5000, whole(1), "steps between two checkpoints"),
    keep=Key(3, whole(1), "so many of the newest stay"),
)
LOG = Group(
    "What a run says.",
    free=True,
    every_steps=Key(100, whole(1), "steps between two lines"),
)
