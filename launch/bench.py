"""Measure the networks: seconds, samples per second and peak memory.

    python launch/bench.py --config=configs/bench/unet.py       (UNet: forward pass and step)
    python launch/bench.py --config=configs/bench/priors.py --what=priors
    python launch/bench.py --what=data --photos=FOLDER          (see bench_data.py)
    python launch/bench.py --what=gradients       (weight gradients: ours against XLA's own)
    python launch/bench.py --config=configs/bench/restore.py --what=restore
    python launch/bench.py --what=samplers --checkpoint=WEIGHTS --pairs=FOLDER  (or tiles)

Ratios within one run mean more than seconds: machines are noisy.
"""

import datetime
import platform
import resource
import statistics
import time
from typing import Any

import bench_data
import bench_restore
import jax
import jax.numpy as jnp
import numpy as np
import tabulate
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from tpgdiff_jax.backbones.depth_anything import depth_input
from tpgdiff_jax.backbones.segformer import segmentation_input
from tpgdiff_jax.backbones.vit import clip_view
from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.diffusion.loss import diffuse, diffusion_loss
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.models import xla_convolution as convolution
from tpgdiff_jax.priors import Priors
from tpgdiff_jax.training.state import make_optimizer
from tpgdiff_jax.validation import validate

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", "configs/bench/unet.py", "What to measure.")
flags.DEFINE_enum(
    "what",
    "unet",
    ["unet", "priors", "gradients", "data", "memory", "restore", "samplers", "tiles"],
    "Which measurement.",
)
flags.DEFINE_string("checkpoint", None, "samplers, tiles: a .safetensors file or a run's folder.")
flags.DEFINE_string("pairs", None, "samplers, tiles: folder of sets, each with LQ and GT.")
flags.DEFINE_integer("each", 2, "samplers, tiles: pairs of each set.")
flags.DEFINE_integer("crop", 128, "samplers: side of the centre crop, pixels.")
flags.DEFINE_integer("steps", 10, "restore: network calls per image.")
flags.DEFINE_string("photos", "configs/quickstart_photos/train", "data, memory: clean photos.")
flags.DEFINE_integer("batches", 20_000, "memory: how many batches to follow.")
flags.DEFINE_integer("repeats", 5, "Counted runs of each measurement, after one that warms up.")


def measure(function, *args, repeats: int) -> tuple[dict[str, str], float]:
    """Time a function compiled once; return a table row and the median in seconds."""
    started = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    compile_seconds = time.perf_counter() - started
    jax.block_until_ready(compiled(*args))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        times.append(time.perf_counter() - started)
    median = statistics.median(times)
    temporary = compiled.memory_analysis().temp_size_in_bytes / 2**20
    row = {
        "median s": f"{median:.3f}",
        "min s": f"{min(times):.3f}",
        "max s": f"{max(times):.3f}",
        "compile s": f"{compile_seconds:.1f}",
        "XLA temporary MiB": f"{temporary:.0f}",
        "process peak MiB": f"{_peak_mib():.0f}",
    }
    return row, median


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10


def bench_unet(config: ConfigDict, repeats: int) -> list[dict[str, str]]:
    """Measure forward, forward + backward, and the whole optimiser step of the UNet."""
    unet = tpgdiff.build(config).unet
    sde = IRSDE(**config.diffusion)
    batch, size = config.data.batch_size, config.data.crop_size
    keys = jax.random.split(jax.random.key(0), 6)
    shape = (batch, size, size, 3)
    gt, lq = jax.random.uniform(keys[0], shape), jax.random.uniform(keys[1], shape)
    t = jnp.full((batch,), 50, jnp.int32)
    x_t = diffuse(sde, gt, lq, t, jax.random.normal(keys[2], shape))
    priors = Priors(
        degradation=jax.random.normal(keys[3], (batch, 512)) if unet.use_degradation else None,
        semantic=jax.random.normal(keys[4], (batch, 512)) if unet.use_semantic else None,
        structure=jax.random.normal(keys[5], (batch, 64, 256)) if unet.use_structure else None,
    )
    params = jax.jit(unet.init)(keys[0], x_t, lq, t, priors)["params"]
    optimizer = make_optimizer(config.optim)
    opt_state = jax.jit(optimizer.init)(params)

    def forward(params, x_t, lq, t, priors):
        return unet.apply({"params": params}, x_t, lq, t, priors)

    def gradient(params, x_t, lq, t, priors):
        def loss(params):
            output = forward(params, x_t, lq, t, priors)
            return diffusion_loss(sde, output, x_t, gt, lq, t).mean()

        return jax.value_and_grad(loss)(params)

    def step(params, opt_state, x_t, lq, t, priors):
        _, grads = gradient(params, x_t, lq, t, priors)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return jax.tree.map(jnp.add, params, updates), opt_state

    inputs = (x_t, lq, t, priors)
    rows = []
    for name, function, args in (
        ("forward", forward, (params, *inputs)),
        ("forward + backward", gradient, (params, *inputs)),
        ("optimiser step", step, (params, opt_state, *inputs)),
    ):
        row, median = measure(function, *args, repeats=repeats)
        rows.append({"what": name, "samples/s": f"{batch / median:.3f}", **row})
    return rows


def bench_priors(config: ConfigDict, repeats: int) -> list[dict[str, str]]:
    """Measure every branch of `extract_priors`, at several input sizes, against one UNet call."""
    model = tpgdiff.build(config)
    batch, size = config.data.batch_size, config.data.crop_size
    lq = jax.random.uniform(jax.random.key(0), (batch, size, size, 3))
    structure = model.structure
    params = random_weights({"unet": model.unet, "structure": structure})
    frozen = random_weights(tpgdiff.frozen_networks(model))
    variables = {"params": params, "frozen": frozen}
    priors = jax.jit(lambda v, lq: model.apply(v, lq, method="extract_priors"))(variables, lq)
    t = jnp.full((batch,), 50, jnp.int32)
    maps = jnp.zeros((batch, size, size, 1))

    def unet(v, lq):
        return model.apply(v, lq, lq, t, priors, method="denoise")

    def encoder(v, lq):
        return structure.apply({"params": v["params"]["structure"]}, lq, maps, maps)

    def vector(name, tower):
        def run(v, lq):
            network = getattr(model, name)
            return network.apply({"params": v["frozen"][name]}, clip_view(lq, tower.image_size))

        return run

    def depth(side):
        def run(v, lq):
            weights = {"params": v["frozen"]["structure"]["depth"]}
            return structure.depth_net.apply(weights, depth_input(lq, side))

        return run

    def segmentation(side):
        def run(v, lq):
            weights = {"params": v["frozen"]["structure"]["segmentation"]}
            return structure.segmentation_net.apply(weights, segmentation_input(lq, side))

        return run

    def whole(v, lq):
        return model.apply(v, lq, method="extract_priors")

    works = {
        "one UNet call": unet,
        "semantic vector": vector("semantic", model.semantic.student),
        "degradation vector": vector("degradation", model.degradation.backbone),
        **{f"depth, {side} px": depth(side) for side in (518, 392, 252, 126)},
        **{f"segmentation, {side} px": segmentation(side) for side in (512, 256, 128)},
        "map encoder and connector": encoder,
        f"extract_priors ({structure.depth_size}, {structure.segmentation_size} px)": whole,
    }
    rows, unit = [], None
    for name, function in works.items():
        row, median = measure(function, variables, lq, repeats=repeats)
        unit = median if unit is None else unit
        rows.append({"what": name, "UNet calls": f"{median / unit:.2f}", **row})
    return rows


def random_weights(networks: Any) -> Any:
    """Return random weights of networks; positive where a norm's variance may be meant."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        if len(leaf.shape) < 2:
            return jnp.asarray(rng.uniform(0.1, 1, leaf.shape), leaf.dtype)
        scale = np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree.map(draw, abstract_params(networks))


def bench_gradients(repeats: int) -> list[dict[str, str]]:
    """Compare both forms of the two weight gradients, in GFLOP/s, at the UNet's sizes."""
    rows = []
    for batch, size, channels, features in (
        (1, 256, 64, 64),
        (1, 256, 128, 64),
        (1, 128, 192, 128),
        (1, 64, 256, 256),
        (1, 32, 512, 512),
        (8, 64, 16, 16),
        (8, 64, 64, 64),
    ):
        x = jax.random.normal(jax.random.key(0), (batch, size, size, channels))
        dy = jax.random.normal(jax.random.key(1), (batch, size, size, features))
        flops = 2 * batch * size**2 * channels * features / 1e9
        row = {"batch": batch, "size": size, "channels": f"{channels} -> {features}"}
        for name, function, work in (
            ("3x3 XLA", convolution.native_kernel_gradient, 9 * flops),
            ("3x3 blocked", convolution.blocked_kernel_gradient, 9 * flops),
            ("1x1 XLA", convolution.native_matrix_gradient, flops),
            ("1x1 merged", convolution.merged_matrix_gradient, flops),
        ):
            row[name] = f"{work / measure(function, x, dy, repeats=repeats)[1]:.0f}"
        rows.append(row)
    return rows


def main(_) -> None:
    """Measure and print a table."""
    config = FLAGS["config"].value
    validate(config)
    device = jax.devices()[0]
    print(
        f"{datetime.date.today()}, jax {jax.__version__}, {jax.device_count()} x "
        f"{device.device_kind} ({device.platform}), {platform.machine()}"
    )
    if FLAGS.what == "unet":
        rows = bench_unet(config, FLAGS.repeats)
        size = config.data.crop_size
        print(
            f"UNet width {config.model.width}, batch {config.data.batch_size}, {size}x{size}, "
            f"{config.model.dtype}; medians of {FLAGS.repeats} runs"
        )
    elif FLAGS.what == "priors":
        rows = bench_priors(config, FLAGS.repeats)
        print(f"Priors of {config.data.batch_size} image(s) of {config.data.crop_size} px")
    elif FLAGS.what == "data":
        print(tabulate.tabulate(bench_data.bench_steps(FLAGS.photos), headers="keys"))
        rows = bench_data.bench_pipeline(FLAGS.photos)
    elif FLAGS.what == "memory":
        rows = bench_data.bench_memory(FLAGS.photos, FLAGS.batches)
    elif FLAGS.what == "restore":
        print(tabulate.tabulate(bench_restore.bench_folder(config), headers="keys"), flush=True)
        rows = bench_restore.bench_sizes(config, FLAGS.steps)
    elif FLAGS.what == "samplers":
        rows = bench_restore.bench_samplers(FLAGS.checkpoint, FLAGS.pairs, FLAGS.each, FLAGS.crop)
    elif FLAGS.what == "tiles":
        rows = bench_restore.bench_tiles(FLAGS.checkpoint, FLAGS.pairs, FLAGS.each)
    else:
        rows = bench_gradients(FLAGS.repeats)
        print(f"GFLOP/s, medians of {FLAGS.repeats} runs")
    print(tabulate.tabulate(rows, headers="keys", disable_numparse=True))


if __name__ == "__main__":
    app.run(main)
