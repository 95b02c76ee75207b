"""`python launch/bench`: every measurement runs on tiny sizes, and its counts are right."""

import copy
import json
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from launch.bench import (
    convolutions,
    data,
    evaluate,
    flops,
    gradients,
    kernels,
    measure,
    model,
    naming,
    options,
    page,
    pairs,
    parity,
    presets,
    priors,
    restore,
    sample,
    table,
    weights,
)
from tpgdiff_jax import native
from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.config import base_config
from tpgdiff_jax.inference import stepwise
from tpgdiff_jax.native.build import MissingError
from tpgdiff_jax.native.choice import _load
from tpgdiff_jax.reporting.errors import UserError

PROGRAM = pathlib.Path(options.__file__).with_name("__main__.py")
MAIN = runpy.run_path(str(PROGRAM), run_name="bench")["main"]
PHOTOS = str(options.PHOTOS / "eval")


@pytest.fixture(scope="module")
def tiny():
    """Return a system that compiles fast, on two pictures of 16 pixels."""
    config = base_config()
    config.model.update({"width": 4, "multipliers": (1,), "first_attention_level": 9})
    config.model.update({"use_semantic": False, "use_structure": False})
    config.priors.encoder_width = 4
    config.data.update({"batch_size": 2, "crop_size": 16})
    config.eval.steps = 2
    return config.lock()


def test_model_measures_each_pass(tiny):
    rows = model.bench_model(tiny, repeats=1, side=64)
    assert [row["what"] for row in rows] == list(model.WORKS)
    forward, gradient, step = (row["flop_counted"] for row in rows)
    assert 2.5 * forward < gradient <= 3 * forward
    assert step >= gradient
    assert all(row["seconds"] > 0 and row["share_of_peak"] > 0 for row in rows)
    assert all(row["peak_bytes"] > 0 and row["compile_seconds"] > 0 for row in rows)


def test_sample_counts_every_call(tiny):
    rows = [sample.bench_sample(tiny, 1, steps, side=64)[0] for steps in (1, 3)]
    assert all(row["finite"] for row in rows)
    once, thrice = (row["flop_counted"] for row in rows)
    unet = flops.counted(_traced_forward(tiny).jaxpr)
    np.testing.assert_allclose(thrice - once, 2 * unet, rtol=1e-6)


def _traced_forward(config):
    unet, params, batch = model.system(config)
    inputs = (params, batch["x_t"], batch["lq"], batch["t"], batch["priors"])
    return jax.jit(lambda p, *rest: unet.apply({"params": p}, *rest)).trace(*inputs)


def test_full_width_agrees_with_the_closed_form():
    config = presets.sized(base_config(), 1, 64, None)
    unet = weights.tpgdiff.build(config).unet
    params = weights.abstract_params(unet)
    image, time = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32), jnp.ones(1)
    given = model.Priors(jnp.ones((1, 512)), jnp.ones((1, 512)), jnp.ones((1, 64, 256)))
    traced = jax.make_jaxpr(lambda p, x: unet.apply({"params": p}, x, x, time, given))(
        params, image
    )
    assert model.is_released_size(config)
    # The closed form is the released program's, without the products inside linear attention; ours
    # makes neither values nor the heads' answers for all pixels there.
    assert 0.98 < flops.counted(traced) / flops.closed_form(64**2) < 1.06


def test_operations_of_products_convolutions_and_loops():
    def function(x, kernel):
        unused = x @ x  # noqa: F841  compilers drop it
        y, _ = jax.lax.scan(lambda y, _: (y @ x, None), x, length=5)
        image = y.reshape(1, 4, 4, 1)
        strided = {"window_strides": (2, 2), "padding": "VALID"}
        kind = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        return jax.lax.conv_general_dilated(image, kernel, **strided, **kind)

    found = flops.counted(jax.make_jaxpr(function)(jnp.ones((4, 4)), jnp.ones((2, 2, 1, 3))))
    assert found == 5 * 2 * 4**3 + 2 * (2 * 2 * 3) * 4


def test_kernels_are_read_from_the_program():
    class Fake:
        def as_text(self):
            return (
                '%a = custom-call(), custom_call_target="__cudnn$fmhaSoftmax"\n'
                '%b = custom-call(), custom_call_target="__cublas$gemm"\n'
                "%c = bf16[2,4,64,64]{3,2,1,0} fusion()\n"
                "%d = bf16[2,48,48]{2,1,0} fusion()"  # as many channels as tokens
            )

    assert kernels.custom_calls(Fake()) == {"__cudnn$fmhaSoftmax": 1, "__cublas$gemm": 1}
    assert kernels.attention(Fake(), 32) == "__cudnn$fmhaSoftmax x1"
    assert kernels.attention(Fake(), 48) == "__cudnn$fmhaSoftmax x1"
    assert kernels.attention(Fake(), 64).endswith("scores [2,4,64,64] in memory")


def test_parity_compares_both_types(tiny):
    rows = parity.bench_parity(tiny, None, PHOTOS)
    assert len(rows) == 3
    assert all(30 < row["db_between"] < 150 for row in rows)


def test_parity_of_published_weights(tiny, tmp_path):
    _, variables = weights.random_system(tiny)
    path = tmp_path / "weights.safetensors"
    published.save(path, variables["params"], published.describe(tiny))
    assert parity.bench_parity(tiny, str(path), PHOTOS)[-1]["db_between"] > 0


def test_priors_of_every_branch(tiny):
    names = [row["what"] for row in priors.bench_priors(tiny, repeats=1)]
    assert names[:2] == ["one UNet call", "compact encoder"]
    assert names[-1] == "extract_priors, all of it"


def test_convolutions_compare_both_ways_and_leave_the_choice_alone(monkeypatch):
    monkeypatch.delenv(native.ENVIRONMENT, raising=False)
    before = native.chosen()
    shapes = ((3, 1, 16, 16, 16, 1), (1, 1, 64, 64, 32, 1))
    if isinstance(_load(), MissingError):
        with pytest.raises(UserError, match="onednn cannot run here"):
            convolutions.bench_convolutions("float32", 1, shapes)
    else:
        rows = convolutions.bench_convolutions("float32", 1, shapes)
        assert [row["what"] for row in rows[::2]] == ["3x3/1 forward", "1x1/1 forward"]
        assert all(row["times_faster"] > 0 for row in rows)
    assert native.chosen() == before


def test_gradients():
    rows = gradients.bench_gradients("bfloat16", 1, shapes=((1, 8, 4, 4),))
    assert {row["what"] for row in rows} >= {"3x3 XLA", "3x3 blocked"}


def test_restore_whole_in_windows_and_as_a_loop(tiny, monkeypatch):
    monkeypatch.setattr(restore, "_WINDOW", 64)
    rows = restore.bench_sizes(tiny, 2, sizes=((64, 80),), isolated=False)
    assert [row["how"].split(",")[0] for row in rows] == [
        "compiled",
        "compiled",
        "loop of calls",
    ]
    stepwise.KEPT.clear()
    sizes = ((40, 50), (64, 64), (40, 90))
    rows = restore.bench_folder(tiny, sizes=sizes, isolated=False)
    assert [row["programs"] for row in rows] == [2, 0]
    stepwise.KEPT.clear()
    monkeypatch.setattr(stepwise.KEPT, "_most", 1)  # programs are counted, also those freed since
    rows = restore.bench_folder(tiny, sizes=sizes, isolated=False)
    assert [row["programs"] for row in rows] == [2, 2]


def test_loop_of_calls_computes_the_priors_once(tiny, monkeypatch):
    counts = []
    original = jax.jit

    def counting(function, *args, **kwargs):
        compiled = original(function, *args, **kwargs)

        def call(*inputs):
            counts.append(len(inputs))
            return compiled(*inputs)

        return call

    monkeypatch.setattr(restore.jax, "jit", counting)
    monkeypatch.setattr(restore, "_RUN_TWICE", 0)
    restore._loop_of_calls(tiny, (16, 16), 3)
    assert counts.count(2) == 1  # extract(variables, mu)
    assert counts.count(5) == 3  # network(variables, x, mu, t, priors)


def test_eval(tiny):
    (row,) = evaluate.bench_eval(tiny, PHOTOS, 2, metrics=("psnr",))
    assert row["seconds"] > 0
    assert row["sampling s"] >= 0


def test_data():
    folder = str(options.PHOTOS / "train")
    rows = data.bench_steps(folder, count=1)
    assert rows[0]["what"] == "decode"
    assert all(row["patches/s/core"] > 0 for row in data.bench_pipeline(folder, seconds=0.01))


def test_memory_counts_this_process():
    total, own = data.memory_mib()
    assert 0 < own <= total


def test_samplers_and_tiles(tiny, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    published.save(path, weights.random_system(tiny)[1]["params"], published.describe(tiny))
    for kind in ("LQ", "GT"):
        (tmp_path / "pairs" / "noise" / kind).mkdir(parents=True)
        Image.fromarray(sample.picture((64, 64))).save(tmp_path / "pairs/noise" / kind / "a.png")
    (tmp_path / "pairs/noise/LQ/.DS_Store").touch()  # of a file manager
    few = {"posterior": pairs.samplers.SAMPLERS["posterior"]}
    monkeypatch.setattr(pairs.samplers, "SAMPLERS", few)
    rows = pairs.bench_samplers(str(path), str(tmp_path / "pairs"), 1, 16, calls=(1,))
    assert [row["sampler"] for row in rows] == ["input", "posterior"]
    rows = pairs.bench_tiles(str(path), str(tmp_path / "pairs"), 1, tiles=(0,))
    assert rows[0]["pictures"] == 1
    with pytest.raises(UserError, match=r"a\.png is smaller than --crop=100"):
        pairs.bench_samplers(str(path), str(tmp_path / "pairs"), 1, 100)
    with pytest.raises(UserError, match="nowhere holds no set"):
        pairs.bench_tiles(str(path), str(tmp_path / "nowhere"), 1)


def test_naming_counts_first_names_and_verdicts(tmp_path, monkeypatch):
    Image.fromarray(sample.picture((64, 64))).save(tmp_path / "a.png")
    said = {"noise": 0.9, "jpeg": 0.2}

    class Answers:
        def __init__(self, restorer):
            self.config = restorer.config

        def degradations(self, _):
            return said

    real = naming.Restorer.load
    monkeypatch.setattr(naming.Restorer, "load", lambda *a, **k: Answers(real(*a, **k)))
    rows = {row["degradation"]: row for row in naming.bench_naming(None, str(tmp_path), 32, 2)}
    assert rows["noise"]["first"] == rows["noise"]["verdict"] == 1
    assert rows["jpeg"]["first"] == rows["jpeg"]["verdict"] == 0
    assert rows["jpeg"]["instead"] == "noise"
    assert (rows["noise"]["pictures"], rows["nothing"]["pictures"]) == (2, 1)
    assert rows["nothing"]["verdict"] == 0
    assert rows["mean of the degradations"]["first"] == pytest.approx(1 / 11)


def test_requests_of_the_page_are_timed_and_its_memory_followed(tiny):
    restorer = page.Restorer(*weights.random_system(tiny), tiny)
    rows = page.bench_requests(restorer, 32, requests=3)
    assert [row["what"] for row in rows[:2]] == ["first request, 32x32, compiled", "request, 32x32"]
    assert all(row["seconds"] > 0 for row in rows[:2])
    assert rows[-1]["what"] == "after request 3"
    assert rows[-1]["resident_bytes"] > 2**26


def test_preset_measures_all_in_one_call(tiny, capsys):
    preset = {"dtype": "bfloat16", "batch": 2, "size": 16, "calls": (2,), "parity_batch": 1}
    config = copy.deepcopy(tiny)
    rows = presets.run_preset(config, preset, 1, PHOTOS, None, side=64)
    names = [row["what"] for row in rows]
    assert names[:3] == ["forward", "sample, posterior", "train step"]
    assert rows[2]["dtype"] == "bfloat16"
    assert names[-1] == "mean"
    assert "parity measured" in capsys.readouterr().out


def test_peak_is_that_of_a_product():
    assert measure.matrix_peak("float32", 64) > 1e6


def test_command_prints_a_table_and_writes_json(tmp_path, capsys, monkeypatch):
    output = tmp_path / "rows.json"
    monkeypatch.setattr(gradients, "bench_gradients", lambda *_: [{"what": "3x3", "seconds": 2.0}])
    assert MAIN(["gradients", "--dtype=bfloat16", f"--output={output}"]) == 0
    assert "median s" in capsys.readouterr().out
    report = json.loads(output.read_text())
    assert report["rows"] == [{"what": "3x3", "seconds": 2.0}]
    assert report["platform"] == "cpu"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "expected one of model, sample"),
        (["model", "--dtype=int8"], "--dtype"),
        (["samplers"], "--pairs is missing"),
        (["naming", "--photos=nowhere"], "nowhere"),
        (["parity", "--photos=nowhere"], "--photos=nowhere is no folder"),
        (["parity", "--checkpoint=nowhere"], "nowhere"),
        (["restore", "--sizes=7"], "HEIGHTxWIDTH"),
    ],
)
def test_wrong_command_is_one_sentence(arguments, said, capsys):
    assert MAIN(arguments) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_help_names_every_measurement(capsys):
    assert MAIN(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"launch/bench {name}" in told for name in ("model", "sample", "eval", "data"))


def test_table_keeps_kinds_of_rows_apart():
    shown = table.show([{"what": "a", "seconds": 1.0}, {"how": "b", "peak_bytes": None}])
    assert "median s" in shown.split("\n\n")[0]
    assert "peak GiB" in shown.split("\n\n")[1]
