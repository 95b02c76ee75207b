"""Keys of what is done with weights: validation, benchmarks, test sets; and of the devices."""

from tpgdiff_jax.distributed.rules import DEFAULT_RULES
from tpgdiff_jax.keys.checks import (
    Check,
    any_of,
    flag,
    number,
    one_of,
    some_of,
    text,
    tuple_of,
    whole,
)
from tpgdiff_jax.keys.group import Group, Key

# What the data pipeline, NumPy and JAX all take.
SEED = whole(0, 2**32 - 1)
# Views of an image whose restorations are averaged: of itself, also mirrored, also upside down.
ENSEMBLE = Check(
    lambda value: whole(1).fits(value) and value in (1, 2, 4),
    "1, 2 or 4",
    "numbers out of 1, 2, 4",
)


def _severities(most: float) -> Check:
    return tuple_of(number(least=0, most=most), least=1)


EVAL = Group(
    "How weights restore, unless told otherwise, and how a run is validated.",
    free=True,
    sampler=Key("posterior", one_of, "euler_sde and euler_ode take all of `diffusion.num_steps`"),
    steps=Key(100, whole(1), "network calls per image (NFE)"),
    clamp=Key(False, flag(), "clip every estimate of the clean image to [0, 1]"),
    passes=Key(
        1,
        whole(1),
        "restorations in a row, at most: a further one of images whose result still shows noise, "
        "rain, haze, low light or snow; above 1 needs `priors.classification` 'multi'",
    ),
    every_steps=Key(0, whole(0), "training steps between validations; 0: only at the end"),
    photos=Key(8, whole(1), "so many of `data.eval_folder`, spread evenly, are used in training"),
    which=Key("last", one_of(("last", "best")), "checkpoint that eval and export use"),
    ema_decay=Key(
        0.0, number(least=0, below=1), "which average is used and published; 0: that of `ema.decay`"
    ),
    crop_size=Key(256, whole(0), "centre crop of each photo, pixels; 0: the whole photo"),
    batch_size=Key(4, whole(1), "images restored together"),
    seed=Key(1, SEED, "of degradations and sampling noise"),
)

BENCHMARK = Group(
    "--mode=eval with --checkpoint or --predictions: what is scored, and how.",
    free=True,
    sets=Key(
        ("five",),
        Check(
            lambda value: isinstance(value, tuple | list) and len(value) > 0,
            "a non-empty tuple of names of sets or groups, or mappings of a set's fields",
        ),
        "groups (five, single, cdd11, udc), presets, or mappings of the fields of "
        "`benchmark/sets.SetSpec`",
    ),
    root=Key("benchmarks", text(), "the folder they lie in"),
    protocol=Key("", one_of, "how scores are computed; '': each set's own"),
    metrics=Key(
        ("psnr", "ssim", "psnr_y", "ssim_y", "lpips_alex", "fid", "niqe", "musiq"),
        some_of,
        "of each image; then fid, niqe and musiq of each set, where their packages are there",
    ),
    samplers=Key(
        (),
        any_of,
        "each with every number of `steps`; (): the weights' own",
        example=("posterior", "ode2"),
    ),
    steps=Key(
        (),
        tuple_of(whole(1)),
        "network calls per image; (): the weights' own",
        example=(4, 10, 100),
    ),
    without=Key(
        "", text(), 'priors switched off: "semantic, semantic+structure", or "all" subsets in turn'
    ),
    ensembles=Key(
        (1,),
        tuple_of(ENSEMBLE, least=1),
        "views of each image that are averaged: 1, 2 (its mirror image), 4 (also upside down)",
        example=(1, 4),
    ),
    passes=Key(
        (),
        tuple_of(whole(1)),
        "restorations in a row, at most; (): the weights' own",
        example=(1, 2),
    ),
    batch_size=Key(4, whole(1), "images of each device read and run together"),
    exact=Key(True, flag(), "one image per device and program: batches cannot change any digit"),
    bucket=Key(16, whole(1), "images are padded to multiples of so many pixels; 1: not at all"),
    tile=Key(
        768,
        Check(
            lambda value: whole(0).fits(value) and (value == 0 or value >= 64),
            "0 or a whole number of 64 or more",
        ),
        "window for images above `largest_whole`, pixels; 0: always whole",
    ),
    largest_whole=Key(1.05, number(above=0), "megapixels restored in one piece"),
    seed=Key(1, SEED, "of degradations and sampling noise, with each image's name"),
    save_images=Key(True, flag(), "the report, fid, niqe and musiq need the restored images"),
    inception_weights=Key("", text(), "folder with inception_v3_weights_fid.pickle, for fid"),
)

PREPARE = Group(
    "--mode=prepare: a fixed test set, or a contact sheet, from clean photos.",
    free=True,
    recipes=Key(
        (),
        tuple_of(text()),
        "what is done to each photo, or the preset cdd11; (): each of `data.degradations`",
        example=("haze + rain:2",),
    ),
    severities=Key((1.0, 3.0, 5.0), _severities, "of the names without their own"),
    format=Key("folder", one_of, "how the pairs are stored"),
    crop_size=Key(0, whole(0), "centre crop of each photo, pixels; 0: the whole photo"),
    seed=Key(1, SEED, "of the degradations, with each photo's name"),
)

_AXIS = Check(
    lambda value: value != 0 and whole(-1).fits(value),
    "a whole number of 1 or more, or -1 for the devices that are left",
)
MESH = Group(
    "Devices along each axis of the mesh; their product is the number of devices.",
    free=True,
    data=Key(-1, _AXIS, "split the batch"),
    fsdp=Key(1, _AXIS, "split the batch, and parameters by `sharding`"),
    tensor=Key(1, _AXIS, "split wide layers by `sharding`"),
    spatial=Key(1, _AXIS, "split image rows"),
)
SHARDING = Key(
    DEFAULT_RULES,
    Check(
        lambda value: isinstance(value, tuple | list),
        "a tuple of (regex, tactic) or (regex, tactic, least elements)",
    ),
    "which parameters are split, the first regex found in a path decides; see "
    "`distributed/rules.py`",
    example=(("kernel$", "fsdp"), (".*", "replicate")),
    free=True,
)
