"""The evaluation at the end of training: the same on one device and over a mesh."""

import copy
import json
import math
import shutil
import types

import jax
import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.data.degradations.mix import parse
from tpgdiff_jax.data.labels import OTHER
from tpgdiff_jax.data.pairs import PairFolder
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.distributed import agreement, sharding
from tpgdiff_jax.reporting.errors import RunStoppedError, UserError
from tpgdiff_jax.training import validate, validate_stage_one
from tpgdiff_jax.training.validate import Result, TestPair, TestPairs, evaluate, restore_and_score
from tpgdiff_jax.training.validate_stage_one import evaluate_stage_one
from tpgdiff_jax.training.validation_report import Report


@pytest.fixture
def config(tiny_system, tiny_config):
    tiny_config.unlock()
    for group in ("model", "priors", "diffusion"):
        tiny_config[group].update(tiny_system.config[group])
    tiny_config.data.degradations = ("noise", "rain")
    tiny_config.eval.update({"crop_size": 24, "batch_size": 3})
    return tiny_config


def test_a_mesh_gives_the_scores_of_one_device(tiny_system, config, photo_folder, tmp_path):
    photos = PhotoFolder(photo_folder)
    alone = list(evaluate(tiny_system.variables, config, photos))
    programs = restore_and_score._cache_size()
    again = list(evaluate(tiny_system.variables, copy.deepcopy(config), photos))
    assert restore_and_score._cache_size() == programs  # validations of a run share a program
    assert [r.psnr for r in again] == [r.psnr for r in alone]
    sizes = {"data": 2, "fsdp": 2, "tensor": 2, "spatial": 1}
    mesh = sharding.make_mesh(sizes)
    # Wide weights split, as in training; the rest on every device.
    laid = sharding.infer_shardings(tiny_system.variables, mesh, ((".*", "fsdp"),))
    variables = jax.device_put(tiny_system.variables, laid)
    spread = list(evaluate(variables, config, photos, mesh=mesh))
    assert [r.pair.name for r in spread] == [r.pair.name for r in alone]
    for one, other in zip(alone, spread, strict=True):
        assert other.psnr == pytest.approx(one.psnr, abs=0.01)
        assert other.psnr_input == pytest.approx(one.psnr_input, abs=1e-4)
        np.testing.assert_allclose(other.restored.astype(int), one.restored, atol=1)
    report = Report(spread)
    assert set(report.means()) == {"noise", "rain", "mean"}
    picture = report.write(tmp_path / "out")
    assert Image.open(picture).size[::-1] == report.picture().shape[:2]


def test_scores_of_equal_images_are_json(tmp_path):
    image = np.zeros((24, 24, 3), np.uint8)
    pair = TestPair("a.png", "noise", image, image, parse("noise:3"))
    Report([Result(pair, image, 20.0, math.inf, 0.5, 1.0)]).write(tmp_path)
    text = (tmp_path / "scores.json").read_text()
    scores = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert scores["images"][0]["psnr"] == scores["means"]["mean"]["gain"] == "inf"
    assert float(scores["means"]["mean"]["psnr"]) == math.inf


def test_pairs_are_scored_as_they_are(tiny_system, config, tmp_path):
    """Their own degraded images and classes, cut around the centre alike; by name, not by path."""
    rng = np.random.default_rng(0)
    for name in ("rain/1", "rain/2", "noise/1"):
        for side in ("LQ", "GT"):
            path = tmp_path / "pairs" / name.replace("/", f"/{side}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 256, (30, 36, 3), np.uint8)
            Image.fromarray(image).save(path.with_suffix(".png"))
    pairs = PairFolder(tmp_path / "pairs")
    found = list(evaluate(tiny_system.variables, config, pairs))
    names = ["noise/LQ/1.png/noise", "rain/LQ/1.png/rain", "rain/LQ/2.png/rain"]
    assert [result.pair.name for result in found] == names
    for index, result in enumerate(found):
        np.testing.assert_array_equal(result.pair.lq, pairs[index]["lq"][3:27, 6:30])
        np.testing.assert_array_equal(result.pair.gt, pairs[index]["gt"][3:27, 6:30])
        assert result.pair.recipe is None
    report = Report(found)
    assert list(report.means()) == ["noise", "rain", "mean"]
    report.write(tmp_path / "report")
    assert len(json.loads((tmp_path / "report/scores.json").read_text())["images"]) == 3
    assert len(list(evaluate(tiny_system.variables, config, pairs, most=2))) == 2


@pytest.mark.parametrize(("most", "classes"), [(4, "aceg"), (9, "abcdefghi"), (None, "abcdefghi")])
def test_a_few_pairs_are_of_all_classes(config, tmp_path, most, classes):
    image = Image.new("RGB", (30, 36))
    for kind in "abcdefghi":
        for side in ("LQ", "GT"):
            (tmp_path / "pairs" / kind / side).mkdir(parents=True)
            for number in range(2):
                image.save(tmp_path / "pairs" / kind / side / f"{number}.png")
    source = PairFolder(tmp_path / "pairs")
    indices = validate.chosen(source, most)
    assert len(set(indices)) == (most or len(source))
    assert {source.name(index)[0] for index in indices} == set(classes)
    pairs = TestPairs(source, config, most)
    names = [p.image for p, _ in pairs.through(lambda p: lambda: [0] * len(p), np.asarray, 3)]
    assert names == [source.name(index) for index in indices]


def test_only_a_few_pairs_are_in_memory(tiny_system, config, photo_folder, monkeypatch):
    """However many photos there are: results come while later photos are not read yet."""
    for index in range(40):
        (photo_folder / f"more_{index}.png").write_bytes((photo_folder / "0.png").read_bytes())
    photos, read = PhotoFolder(photo_folder), []
    real = photos._read
    monkeypatch.setattr(photos, "_read", lambda index: read.append(index) or real(index))
    results = evaluate(tiny_system.variables, config, photos)
    next(results)
    assert len(set(read)) <= 16
    results.close()


def test_a_batch_that_does_not_fit_is_halved_an_image_that_does_not_is_named(
    tiny_system, config, photo_folder, monkeypatch
):
    photos, real, rows = PhotoFolder(photo_folder), validate.restore_and_score, []
    expected = list(evaluate(tiny_system.variables, config, photos))

    def small(most):
        def restore(variables, lq, *args, **options):
            rows.append(len(lq))
            if len(lq) > most:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
            return real(variables, lq, *args, **options)

        return restore

    monkeypatch.setattr(validate, "restore_and_score", small(1))
    found = list(evaluate(tiny_system.variables, config, photos))
    assert set(rows) == {4, 2, 1}
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.restored.astype(int), other.restored, atol=1)
    monkeypatch.setattr(validate, "restore_and_score", small(0))
    words = r"0\.png: needs more memory than the device has; lower config\.eval\.crop_size"
    with pytest.raises(UserError, match=words):
        list(evaluate(tiny_system.variables, config, photos))


def test_that_nothing_could_be_scored_is_said(tmp_path):
    with pytest.raises(UserError, match=r"eval_folder: not one of its pictures .*eval\.photos"):
        Report([]).means()


@pytest.mark.parametrize("lacks", [None, "a picture", "the last batch"])
def test_processes_that_read_other_pictures_stop_instead_of_mixing_them(
    tiny_system, config, photo_folder, monkeypatch, lacks
):
    said = []

    def gathered(own):
        (digest,) = own
        said.append(int(digest))
        ends = lacks == "the last batch" and len(said) == 2
        return np.array([[digest], [0 if ends else digest ^ np.uint32(lacks == "a picture")]])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(agreement.multihost_utils, "process_allgather", gathered)
    config.eval.batch_size = 2
    sizes = dict.fromkeys(sharding.AXES, 1)
    mesh = sharding.make_mesh(sizes, jax.devices()[:1])
    source = PhotoFolder(photo_folder)
    run = evaluate(tiny_system.variables, config, source, mesh=mesh)
    if lacks is None:
        list(run)
        assert said[-1] == 0
        assert len(set(said)) == len(said) > 1
        return
    with pytest.raises(RunStoppedError, match="process 1 does not validate with the pictures"):
        list(run)


def test_a_validation_is_left_before_the_batch_at_which_an_end_is_asked_for(
    tiny_system, config, photo_folder, monkeypatch
):
    done, real = [], validate.restore_and_score

    def restore(*args, **options):
        done.append(len(args[1]))
        return real(*args, **options)

    monkeypatch.setattr(validate, "restore_and_score", restore)
    config.eval.batch_size = 2
    answers = iter([False, False, True])
    asked = {"is_asked_to_end": lambda: next(answers)}
    with pytest.raises(validate.LeftEarlyError):
        list(evaluate(tiny_system.variables, config, PhotoFolder(photo_folder), **asked))
    assert len(done) == 2


def test_the_validation_of_stage_one_is_left_and_compared_alike(config, photo_folder, monkeypatch):
    config.priors.update({"encoder": "conv", "teacher": "vgg"})
    config.data.crop_size = 16
    photos = PhotoFolder(photo_folder)
    with pytest.raises(validate.LeftEarlyError):
        evaluate_stage_one(None, None, config, photos, is_asked_to_end=lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    other = {"process_allgather": lambda own: np.stack([own, own ^ np.uint32(1)])}
    monkeypatch.setattr(agreement, "multihost_utils", types.SimpleNamespace(**other))
    with pytest.raises(RunStoppedError, match="process 1 does not validate with the pictures"):
        evaluate_stage_one(None, None, config, photos)


def test_stage_one_cannot_be_right_about_pairs_that_no_class_describes(
    config, photo_folder, tmp_path, monkeypatch
):
    config.priors.update({"encoder": "conv", "teacher": "vgg"})
    config.data.crop_size = 16
    for side in ("LQ", "GT"):
        shutil.copytree(photo_folder, tmp_path / "pairs" / side)
    names = tuple(config.data.degradations)
    source = PairFolder(tmp_path / "pairs", classes=names, class_name=OTHER)

    def ask(params, teacher, gt, lq, *, networks):
        return (np.zeros(len(gt), int), np.full(len(gt), 0.5), np.ones(len(gt)))

    monkeypatch.setattr(validate_stage_one, "_ask", ask)
    scores = evaluate_stage_one({}, {}, config, source)
    assert scores.confusion.sum() == scores.accuracy == 0
    assert scores.cosine == 0.5  # but they are looked at


def test_the_weights_of_stage_one_are_copied_to_the_device_once(config, photo_folder, monkeypatch):
    config.priors.update({"encoder": "conv", "teacher": "vgg"})
    config.data.crop_size = 16
    seen = []

    def ask(params, teacher, gt, lq, *, networks):
        seen.extend([params["kernel"], teacher["kernel"]])
        return (np.zeros(len(gt), int), np.ones(len(gt)), np.ones(len(gt)))

    monkeypatch.setattr(validate_stage_one, "_ask", ask)
    weights = {"kernel": np.ones(3, np.float32)}
    evaluate_stage_one(weights, weights, config, PhotoFolder(photo_folder))
    assert seen
    assert all(isinstance(leaf, jax.Array) for leaf in seen)
