"""A benchmark's lines: equal to the last digit however the job runs, complete, and honest."""

import dataclasses
import json
import shutil
import unicodedata

import jax
import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.benchmark import job
from tpgdiff_jax.benchmark.finding import open_set
from tpgdiff_jax.benchmark.job import IMAGES, ROWS
from tpgdiff_jax.benchmark.rows import read_rows
from tpgdiff_jax.benchmark.sets import SetSpec
from tpgdiff_jax.benchmark.settings import Variant
from tpgdiff_jax.benchmark.work import Predictions, Task, bucket_of, chunks, kind_of
from tpgdiff_jax.benchmark.worker import Worker
from tpgdiff_jax.evaluation.metrics import psnr
from tpgdiff_jax.inference.batch import classify
from tpgdiff_jax.reporting.json_lines import JsonLines


def test_a_line_holds_all_that_is_known(undisturbed, whole_rows):
    assert len(undisturbed) == 10
    row = read_rows(whole_rows / ROWS)["posterior-2", "noisy", "0.png"]
    assert row["recipe"] == {"sigma": 25.0, "seed_rule": "name"}
    assert (row["height"], row["width"], row["protocol"]) == (48, 56, "tpgdiff")
    assert (row["nfe"], row["seed"], row["truth"]) == (2, 1, "noise")
    assert row["predicted"] in ("noise", "rain")
    assert row["seconds"] > 0
    assert row["input_psnr"] == pytest.approx(20.3, abs=0.5)  # sigma 25 in 8 bit
    assert {"psnr", "ssim", "input_ssim", "probability"} <= row.keys()
    restored = Image.open(whole_rows / IMAGES / "posterior-2/noisy/0.png")
    assert restored.size == (56, 48)


def test_an_ensemble_is_a_row_of_its_own_and_its_calls_count(run_job, undisturbed, tmp_path):
    run_job(tmp_path, ensembles=(1, 2))
    rows = read_rows(tmp_path / ROWS)
    assert len(rows) == 2 * len(undisturbed)
    for (variant, *image), alone in undisturbed.items():
        assert rows[variant, *image]["psnr"] == alone["psnr"]
        of_views = rows[f"{variant}-x2", *image]
        assert of_views["nfe"] == 2 * alone["nfe"]
        assert of_views["psnr"] != alone["psnr"]
        assert of_views["predicted"] == alone["predicted"]


def test_devices_batches_and_order_change_no_digit(run_job, undisturbed, plain_rows, tmp_path):
    run_job(tmp_path, devices=8, reverse=True, batch_size=4)
    assert plain_rows(tmp_path) == undisturbed
    assert list(plain_rows(tmp_path)) == list(undisturbed)


def test_whole_batches_at_once_find_the_same_but_for_the_last_digits(
    run_job, undisturbed, plain_rows, tmp_path
):
    run_job(tmp_path, devices=2, batch_size=2, exact=False)
    found = plain_rows(tmp_path)
    assert found.keys() == undisturbed.keys()
    for key, row in found.items():
        assert row["psnr"] == pytest.approx(undisturbed[key]["psnr"], abs=1e-3)


def test_a_job_killed_half_way_goes_on(run_job, undisturbed, plain_rows, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    write, close, calls, logs = JsonLines.write, JsonLines.close, [], []

    def write_or_die(*args):
        calls.append(1)
        if len(calls) == 5:
            raise Killed
        write(*args)

    monkeypatch.setattr(JsonLines, "write", write_or_die)
    monkeypatch.setattr(JsonLines, "close", lambda log: (logs.append(log), close(log)))
    with pytest.raises(Killed):
        run_job(tmp_path, batch_size=4)
    monkeypatch.undo()
    assert len(logs) == 1  # closed, whatever ends the job
    assert len(plain_rows(tmp_path)) == 4
    with (tmp_path / ROWS / "process_0.jsonl").open("a") as file:
        file.write('{"variant": "poste')  # cut off by the kill
    assert run_job(tmp_path, batch_size=4) == 6
    assert plain_rows(tmp_path) == undisturbed
    assert run_job(tmp_path, batch_size=4) == 0


@pytest.fixture
def run_pairs(run_job, benchmarks, tmp_path):
    """`run_pairs(**keys)` -> how many of a set's five images were scored now; its pictures."""
    root, folder = tmp_path / "root", tmp_path / "job"
    shutil.copytree(benchmarks / "pairs", root / "pairs")
    options = {"root": str(root), "sets": ({"name": "pairs", "folder": "pairs"},), "batch_size": 4}

    def run(**keys):
        count = run_job(folder, **options, **keys)
        return count, sorted(path.name for path in folder.glob(f"{IMAGES}/*/*/*.png"))

    return run


def test_pictures_that_lack_are_made_again(run_pairs, tmp_path):
    names = [f"{index}.png" for index in range(5)]
    assert run_pairs(save_images=False) == (5, [])
    assert run_pairs(save_images=False) == (0, [])
    assert run_pairs(save_images=True) == (5, names)
    (tmp_path / f"job/{IMAGES}/posterior-2/pairs/3.png").unlink()
    assert run_pairs(save_images=True) == (1, names)
    assert run_pairs(save_images=True) == (0, names)


def test_a_picture_of_an_older_input_is_not_left_behind(run_pairs, tmp_path):
    run_pairs(save_images=True)
    shutil.copy(tmp_path / "root/pairs/LQ/4.png", tmp_path / "root/pairs/LQ/1.png")
    assert run_pairs(save_images=False) == (1, ["0.png", "2.png", "3.png", "4.png"])
    # Should it come back, as it does from a store: the line says that it is another's.
    (tmp_path / f"job/{IMAGES}/posterior-2/pairs/1.png").touch()
    assert run_pairs(save_images=True)[0] == 1
    assert run_pairs(save_images=True)[0] == 0


@pytest.mark.parametrize("is_in_a_store", [True, False])
def test_shares_do_not_look_for_pictures_that_only_the_store_has(
    run_job, tmp_path, monkeypatch, is_in_a_store
):
    run_job(tmp_path, share=(0, 2))
    shutil.rmtree(tmp_path / IMAGES)
    monkeypatch.setattr(job, "is_copy", lambda folder: is_in_a_store)
    assert run_job(tmp_path, share=(0, 2)) == (0 if is_in_a_store else 5)


def test_nan_is_listed_and_no_score(run_job, tiny_system, plain_rows, tmp_path):
    # A bias that is NaN poisons every output.
    params = jax.tree.map(np.asarray, tiny_system.variables["params"])
    params["unet"]["final_conv"]["bias"] = np.full(3, np.nan, np.float32)
    poisoned = dataclasses.replace(tiny_system, variables={"params": params, "frozen": {}})
    assert run_job(tmp_path, system=poisoned, batch_size=4) == 10
    for row in plain_rows(tmp_path).values():
        assert row["error"] == "the output holds NaN or infinite values"
        assert "psnr" not in row
    assert not (tmp_path / IMAGES).exists()


def test_predictions_are_scored_without_a_model(run_job, benchmarks, plain_rows, tmp_path):
    outputs = tmp_path / "outputs"
    for name in ("0", "1", "2", "3"):
        image = Image.open(benchmarks / f"pairs/LQ/{name}.png")
        size = (20, 20) if name == "3" else image.size
        path = outputs / f"pairs/{name}.{'bmp' if name == '0' else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.resize(size).save(path)
    (outputs / "pairs/2.png").write_bytes(b"no image")
    predictions = Predictions(outputs, ["pairs", "noisy"])
    run_job(tmp_path / "job", system=None, predictions=predictions)
    rows = {key[1:]: row for key, row in plain_rows(tmp_path / "job").items()}
    for name in ("0.png", "1.png"):
        row = rows["pairs", name]
        assert row["psnr"] == row["input_psnr"]  # they are the degraded images themselves
        assert "nfe" not in row
    assert "not an image" in rows["pairs", "2.png"]["error"]
    assert "3.png is 20x20, the image 3.png 48x56" in rows["pairs", "3.png"]["error"]
    assert rows["pairs", "4.png"]["error"] == "no prediction for 4.png"
    assert "no prediction" in rows["noisy", "0.png"]["error"]


def test_our_own_results_can_be_scored_again(run_job, plain_rows, tmp_path):
    """JPEGs and `.PNG` files too, and images of one stem that differ in their suffix."""
    rng, made = np.random.default_rng(0), tmp_path / "made"
    names = ("a.jpg", "b.PNG", "sub/c.v2.jpeg", "d.png", "d.jpg")
    for name in names:
        kept = job.image_path(made, "posterior-100", "wild", name)
        for path in (tmp_path / "set/LQ" / name, kept):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    sets = ({"name": "wild", "folder": "set", "layout": "unpaired", "lq": "LQ"},)
    folder = made / IMAGES / "posterior-100"
    for predictions in (Predictions(folder, ["wild"]), Predictions(folder / "wild", ["wild"])):
        again = tmp_path / f"again_{len(list(tmp_path.iterdir()))}"
        options = {"root": str(tmp_path), "sets": sets, "save_images": True}
        run_job(again, system=None, predictions=predictions, **options)
        rows = plain_rows(again)
        assert {key[2] for key in rows} == set(names)
        assert not any("error" in row for row in rows.values())
        items = open_set(SetSpec("wild", "set", "unpaired", lq="LQ"), tmp_path).items
        for item in items:
            expected = job.image_path(made, "posterior-100", "wild", item.name)
            assert predictions.path(item) == predictions.find(item) == expected
    # Somebody's file of another suffix is still found by its stem, where it is the only one.
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("a.bmp", "b.jpg", "b.bmp"):
        Image.new("RGB", (48, 40)).save(theirs / name)
    found = {item.name: Predictions(theirs, ["wild"]).find(item) for item in items}
    assert {name for name, path in found.items() if path} == {"a.jpg"}


def test_predictions_of_an_archive_of_macos_are_found(tmp_path):
    own, theirs = (unicodedata.normalize(form, "été.png") for form in ("NFC", "NFD"))
    for name in (f"s/{own}", f"theirs/{theirs}"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (48, 40)).save(tmp_path / name)
    (item,) = open_set(SetSpec("s", "s", "unpaired", lq=""), tmp_path).items
    assert Predictions(tmp_path / "theirs", ["s"]).path(item).name == theirs


def test_a_truncated_truth_costs_one_image(run_job, benchmarks, plain_rows, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(benchmarks, root)
    path = root / "pairs/GT/1.png"
    path.write_bytes(path.read_bytes()[:-400])  # its header is whole, so only reading tells
    predictions = Predictions(root / "pairs/LQ", ["pairs"])
    sets = ({"name": "pairs", "folder": "pairs"},)
    run_job(tmp_path / "job", system=None, predictions=predictions, root=str(root), sets=sets)
    rows = {key[2]: row for key, row in plain_rows(tmp_path / "job").items()}
    assert "1.png: truncated" in rows["1.png"]["error"]
    assert len(rows) == 5
    assert all("psnr" in row for name, row in rows.items() if name != "1.png")


@pytest.mark.parametrize("side", [100, 50])
def test_a_picture_that_changes_its_size_while_a_job_runs_costs_one_image(
    run_job, benchmarks, tmp_path, monkeypatch, side
):
    root = tmp_path / "root"
    shutil.copytree(benchmarks, root)
    find = job.read_stamps

    def then_change(*args):  # between the look at all files and the reading of each
        found = find(*args)
        Image.new("RGB", (side, side)).save(root / "pairs/LQ/1.png")
        return found

    monkeypatch.setattr(job, "read_stamps", then_change)
    predictions = Predictions(benchmarks / "pairs/LQ", ["pairs"])
    sets = ({"name": "pairs", "folder": "pairs"},)
    run_job(tmp_path / "job", system=None, predictions=predictions, root=str(root), sets=sets)
    rows = read_rows(tmp_path / "job" / ROWS)
    errors = [row["error"] for row in rows.values() if "error" in row]
    assert len(rows) == 5
    assert errors == [f"{root}/pairs/LQ/1.png: has another size than when the job began"]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_work_evenly_and_leave_nothing_out(processes):
    def task(size, index):
        spec = type("Spec", (), {"protocol": "tpgdiff", "name": "s"})
        item = type("Item", (), {"size": size, "spec": spec, "gt": 1, "name": str(index)})
        return Task(item, Variant())

    sizes = [(30, 30)] * 5 + [(60, 30)] * 2 + [(31, 17)]
    tasks = [task(size, index) for index, size in enumerate(sizes)]
    shares = [chunks(tasks, 16, 3, process, processes) for process in range(processes)]
    counts = [sum(map(len, share)) for share in shares]
    assert max(counts) - min(counts) <= 1
    found = [task for share in shares for chunk in share for task in chunk]
    assert sorted(task.key for task in found) == sorted(task.key for task in tasks)
    for share in shares:
        kinds = [{kind_of(task, 16) for task in chunk} for chunk in share]
        assert all(len(chunk) <= 3 for chunk in share)
        assert all(len(kind) == 1 for kind in kinds)
        shapes = [kind.pop().shape for kind in kinds]
        assert shapes == sorted(shapes)  # one bucket after the other


@pytest.mark.parametrize("exact", [True, False])
def test_an_image_too_large_for_the_memory_is_listed_and_the_others_are_scored(
    run_job, undisturbed, plain_rows, tmp_path, monkeypatch, exact
):
    """What does not fit together is tried alone; what does not fit alone is an error of its own."""
    real, seen = Worker._call, []
    message = "RESOURCE_EXHAUSTED: Out of memory"

    def small_memory(self, kind, images, rows):
        seen.append(rows)
        if rows > 2 or any(image.size == (56, 48) for image in images):
            raise jax.errors.JaxRuntimeError(message)
        return real(self, kind, images, rows)

    monkeypatch.setattr(Worker, "_call", small_memory)
    assert run_job(tmp_path, batch_size=4, exact=exact) == 10
    rows = plain_rows(tmp_path)
    assert rows.keys() == undisturbed.keys()
    failed = {key for key, row in rows.items() if "error" in row}
    assert {key[2] for key in failed} == {"3.png"}
    assert len(failed) == 2
    for key in failed:
        assert "needs more memory than the device has; lower config.benchmark" in rows[key]["error"]
    for key in rows.keys() - failed:
        assert rows[key]["psnr"] == pytest.approx(undisturbed[key]["psnr"], abs=1e-3)
    assert set(seen) == ({1} if exact else {4, 2, 1})


def test_buckets():
    assert bucket_of((321, 481), 16) == (336, 496)
    assert bucket_of((320, 480), 16) == (320, 480)


def test_in_buckets_of_one_pixel_the_priors_see_exactly_the_image(
    run_job, tiny_system, plain_rows, tmp_path
):
    rng, folder = np.random.default_rng(0), tmp_path / "odd"
    lq, gt = rng.integers(0, 256, (2, 37, 51, 3), np.uint8)
    for side, image in (("LQ", lq), ("GT", gt)):
        (folder / side).mkdir(parents=True)
        Image.fromarray(image).save(folder / side / "0.png")
    sets = ({"name": "odd", "folder": "odd"},)
    run_job(tmp_path / "job", bucket=1, root=str(tmp_path), sets=sets)
    (row,) = plain_rows(tmp_path / "job").values()

    def probability(image):
        whole = image[None].astype(np.float32) / 255
        logits = classify(tiny_system.variables, whole, model=tiny_system.model)
        return float(jax.nn.softmax(logits[0]).max())

    assert row["probability"] == pytest.approx(probability(lq), abs=1e-5)
    padded = np.pad(lq, ((0, 11), (0, 13), (0, 0)), "reflect")  # what buckets of 16 would show
    assert row["probability"] != pytest.approx(probability(padded), abs=1e-4)
    kept = np.asarray(Image.open(tmp_path / "job" / IMAGES / "posterior-2/odd/0.png"))
    assert row["psnr"] == pytest.approx(float(psnr(kept[None], gt[None], 4)[0]), abs=1e-3)


def test_rows_are_plain_json(undisturbed, whole_rows):
    for line in (whole_rows / ROWS / "process_0.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
