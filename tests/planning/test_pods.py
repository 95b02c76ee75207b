"""Plans: topologies and meshes that are typed, rooflines, remedies, GPUs, what is written."""

import json

import pytest

from tpgdiff_jax.planning import command, estimate, plan, remedies, report, roofline, tpu, worker
from tpgdiff_jax.planning.chips import CHIPS, find_topology
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.training.speed import PEAK_TFLOPS


def record(**changes):
    """A program of which all figures are round."""
    return {
        "topology": "v5e:4x4",
        "slice": "v5litepod-16",
        "chips": 16,
        "what": "train",
        "change": "",
        "mesh": {"data": 16, "fsdp": 1, "tensor": 1, "spatial": 1},
        "images": 128,
        "parameters": 10**6,
        "parameter_bytes": 4 * 10**6,
        "optimizer_bytes": 8 * 10**6,
        "average_bytes": 4 * 10**6,
        "argument_bytes": 16 * 10**6,
        "temporary_bytes": 10**9,
        "peak_bytes": 2 * 10**9,
        "memory": 16 * 2**30,
        "fits": True,
        "flops": 197e12 / 10,
        "flops_by_precision": {"bfloat16": 197e12 / 10},
        "bytes": 819e9 / 5,
        "messages": [],
        "movers": [],
        "compile_seconds": 1.0,
    } | changes


def test_topologies_have_slices_chips_and_the_peaks_that_training_reports():
    found = {n: find_topology(n) for n in ("v5e:4x4", "v4:4x4x4", "v5p:4x4x4", "v6e:4x4", "h100:8")}
    slices = [(t.slice_name, t.count) for t in found.values()]
    expected = [("v5litepod-16", 16), ("v4-128", 64), ("v5p-128", 64), ("v6e-16", 16)]
    assert slices == [*expected, ("8xH100", 8)]
    assert {chip.flops / 1e12 for chip in CHIPS} <= {peak for _, peak in PEAK_TFLOPS}


UNKNOWN = ["v5e", "v5e:3x5", "v9:4x4", "h100:0", "h100:12", "rtx4090:16", ""]


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_topology_lists_the_known_ones(name):
    known = r"v5e:\{2x2, .*16x16\}.*v5p:\{.*h100:NUMBER.*rtx4090:\{1, 2"
    with pytest.raises(UserError, match=known):
        find_topology(name)


@pytest.mark.parametrize("text", ["16", "2x2x2", "axbxcxd", "2x2x2x2x2"])
def test_a_mesh_of_another_form_is_one_sentence(text):
    with pytest.raises(UserError, match=f"--mesh={text}: expected.*data x fsdp x tensor"):
        plan.read_mesh(text)


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(tpu.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"for TPUs .*pip install 'tpgdiff_jax\[plan\]'"):
        tpu.check_libtpu(for_gpus=False)
    gpus = r"for GPUs here: .*'jax\[cuda13\]'.* estimate .*pip install 'tpgdiff_jax\[plan\]'"
    with pytest.raises(UserError, match=gpus):
        tpu.check_libtpu(for_gpus=True)


def test_a_rooflines_largest_part_is_its_bound():
    bound = roofline.roofline(record(), find_topology("v5e:4x4"))
    assert (bound.arithmetic, bound.memory, bound.links) == (0.1, 0.2, 0)
    assert (bound.seconds, bound.limit, bound.share_of_peak) == (0.2, "memory", 0.5)
    found = roofline.use(record(), bound, steps=36_000)
    assert (found["images_per_second"], found["hours"], found["chip_hours"]) == (640, 2, 32)
    slow = record(messages=[{"sent": 100e9, "together": 0}])
    assert roofline.roofline(slow, find_topology("v5e:4x4")).limit == "links"


def test_devices_that_share_a_chip_share_its_rates_and_its_memory():
    topology = find_topology("v4:4x4x4")
    one = record(memory=32 * 2**30, peak_bytes=17 * 2**30)
    alone, pair = (worker.shared_by(parts, one) for parts in (1, 2))
    assert (alone["fits"], pair["fits"], pair["memory"]) == (True, False, 16 * 2**30)
    bounds = [roofline.roofline(each, topology) for each in (alone, pair)]
    assert bounds[1].seconds == 2 * bounds[0].seconds
    assert bounds[1].share_of_peak == bounds[0].share_of_peak


def test_gpus_of_several_nodes_are_as_fast_as_their_network():
    one = record(chips=1, mesh={}, images=8)
    eight, many = (find_topology(f"h100:{count}") for count in (8, 64))
    near, far = estimate.estimated(one, eight), estimate.estimated(one, many)
    assert (near["images"], far["images"]) == (64, 512)
    assert near["messages"][0]["sent"] == 2 * 7 / 8 * 4e6
    # Eight rings, one through each network card of a node.
    assert roofline.roofline(near, eight).links == 2 * 7 / 8 * 4e6 / 450e9
    assert roofline.roofline(far, many).links == 2 * 63 / 64 * 4e6 / (8 * 50e9)
    alone = far | {"messages": [far["messages"][0] | {"together": 1}]}  # one GPU of each node
    assert roofline.roofline(alone, many).links == 2 * 63 / 64 * 4e6 / 50e9
    assert "estimated" in report.table(
        [far | {"change": ""} | roofline.use(far, roofline.roofline(far, many), 10)]
    )


def test_remedies_recompute_then_split_the_state_then_shrink_the_batch(tiny_config):
    found = list(remedies.remedies(tiny_config, record(images=64, optimizer_bytes=10**9)))
    assert [change for change, _, _ in found] == [
        "--config.model.remat=attention",
        "--config.model.remat=blocks",
        "--config.model.remat=blocks --config.mesh.fsdp=16",
        "--config.model.remat=blocks --config.data.batch_size=32 --config.mesh.fsdp=16",
        "--config.model.remat=blocks --config.data.batch_size=16 --config.mesh.fsdp=16",
    ]
    assert [config.model.remat for _, config, _ in found[:2]] == ["attention", "blocks"]
    assert found[-1][1].data.batch_size == 16
    assert tiny_config.model.remat == "none"


def test_a_state_that_takes_little_of_the_memory_is_not_split(tiny_config):
    found = [change for change, _, _ in remedies.remedies(tiny_config, record(images=64))]
    assert found[2:] == [
        "--config.model.remat=blocks --config.data.batch_size=32",
        "--config.model.remat=blocks --config.data.batch_size=16",
    ]


def test_remedies_are_batches_that_the_configuration_can_be_trained_with(tiny_config):
    tiny_config.model.remat = "blocks"
    tiny_config.optim.accumulate = 2
    mesh = {"data": 1, "fsdp": 8, "tensor": 1, "spatial": 1}

    def batches(images):
        found = remedies.remedies(tiny_config, record(images=images, mesh=mesh))
        return [config.data.batch_size for _, config, _ in found]

    assert batches(64) == [32, 16]
    assert batches(80) == [32, 16]


def test_stage_one_has_a_batch_and_steps_of_its_own(tiny_config, monkeypatch):
    tiny_config.stage = "priors"
    tiny_config.stage_one.data.batch_size, tiny_config.stage_one.optim.steps = 64, 36_000
    found = list(remedies.remedies(tiny_config, record(images=64, optimizer_bytes=10**9)))
    assert [change for change, _, _ in found] == [
        "--config.mesh.fsdp=16",
        "--config.stage_one.data.batch_size=32 --config.mesh.fsdp=16",
        "--config.stage_one.data.batch_size=16 --config.mesh.fsdp=16",
    ]
    asked = []

    def compiled(config, *_):
        asked.append(config.stage_one.data.batch_size)
        return record()

    monkeypatch.setattr(plan, "compile_apart", compiled)
    monkeypatch.setattr(plan, "check_libtpu", lambda **_: None)
    monkeypatch.setattr(plan.gpu, "has_gpu_compiler", lambda: False)
    tpu, _ = plan.plan(tiny_config, ["v5e:4x4", "h100:8"], ["train"], [])
    assert tpu["hours"] == 2
    assert asked == [64, 8]  # a GPU's share


def test_what_does_not_fit_is_followed_by_what_does(tiny_config, monkeypatch):
    def compiled(config, topology, mesh, what):
        fits = config.model.remat == "blocks"
        return (
            record(fits=fits)
            if fits
            else {
                k: v for k, v in record(fits=False).items() if k not in ("flops", "temporary_bytes")
            }
        )

    monkeypatch.setattr(plan, "compile_apart", compiled)
    monkeypatch.setattr(plan, "check_libtpu", lambda **_: None)
    records = list(plan.plan(tiny_config, ["v5e:4x4"], ["train"], []))
    assert [each["fits"] for each in records] == [False, False, True]
    assert "--config.model.remat=blocks" in report.table(records)


def test_where_nothing_fits_the_end_says_so(tiny_config, monkeypatch, caplog):
    monkeypatch.setattr(plan, "compile_apart", lambda *_: record(fits=False))
    monkeypatch.setattr(plan, "check_libtpu", lambda **_: None)
    assert not any(r["fits"] for r in plan.plan(tiny_config, ["v5e:4x4"], ["train"], []))
    assert "Nothing that was tried makes train fit into v5e:4x4" in caplog.text
    monkeypatch.setattr(plan, "compile_apart", lambda *_: record(fits=False, what="sample"))
    list(plan.plan(tiny_config, ["v5e:4x4"], ["sample"], []))
    assert "smaller images (config.eval.crop_size)" in caplog.text


def test_the_mode_writes_what_it_found(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "compile_apart", lambda *_: record())
    monkeypatch.setattr(plan, "check_libtpu", lambda **_: None)
    flags = type("Flags", (), {})()
    flags.topology, flags.mesh, flags.what = ["v5e:4x4", "v6e:4x4"], [], ["train"]
    flags.by, flags.remedies, flags.output = "operation", True, str(tmp_path / "plan.json")
    command.run(tiny_config, flags)
    written = json.loads((tmp_path / "plan.json").read_text())
    assert len(written["programs"]) == 2
    assert {chip["kind"] for chip in written["chips"]} == {chip.kind for chip in CHIPS}

    # What is known stays where a later program cannot be.
    def unsuited(config, topology, *_):
        if topology.name == "v6e:4x4":
            raise UserError("unsuited")
        return record()

    monkeypatch.setattr(plan, "compile_apart", unsuited)
    with pytest.raises(UserError, match="unsuited"):
        command.run(tiny_config, flags)
    assert len(json.loads((tmp_path / "plan.json").read_text())["programs"]) == 1
    flags.topology = []
    with pytest.raises(UserError, match="needs --topology; known are v5e"):
        command.run(tiny_config, flags)
