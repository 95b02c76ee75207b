"""Both stages of an experiment in one program, on eight devices: trained, scored, published."""

import errno
import json
import os
import shutil
import signal
import tempfile
import types

import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.checkpoints.published import load_system
from tpgdiff_jax.commands.config_checks import validate
from tpgdiff_jax.data.pairs import PairFolder
from tpgdiff_jax.reporting.errors import RunStoppedError, UserError
from tpgdiff_jax.training import experiment
from tpgdiff_jax.training import train as training
from tpgdiff_jax.training.validate import LeftEarlyError, Result, TestPair, chosen


@pytest.fixture
def config(tiny_config, tmp_path):
    """Both stages, two steps each, with the teacher that works offline."""
    config = tiny_config
    config.stage = "both"
    config.model.update({"width": 32, "multipliers": (1, 1), "first_attention_level": 2})
    sizes = {"patch": 8, "width": 16, "layers": 1, "heads": 2, "image_size": 32, "features": 512}
    config.priors.update({"encoder": "clip", "teacher": "vgg", "clip": sizes})
    config.stage_one.data.update({"batch_size": 8, "crop_size": 32})
    config.stage_one.optim.update({"steps": 2, "warmup_steps": 1, "accumulate": 1})
    config.optim.update({"steps": 2, "schedule": "multistep", "milestones": (1,)})
    config.eval.update({"every_steps": 2, "photos": 1, "steps": 1})
    config.checkpoint.every_steps = 5
    config.ema.update({"start_step": 0, "every_steps": 1, "more_decays": (0.1,)})
    unseen = tmp_path / "unseen"
    unseen.mkdir()
    image = np.random.default_rng(9).integers(0, 256, (34, 40, 3), np.uint8)
    Image.fromarray(image).save(unseen / "unseen.png")
    config.data.eval_folder = str(unseen)
    return config


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_parameters_in_bfloat16_are_refused_before_anything_is_made(tiny_config, tmp_path):
    tiny_config.model.param_dtype = "bfloat16"
    validate(tiny_config)  # fine for restoring
    words = r"config\.model\.param_dtype='bfloat16': expected 'float32' for training.*model\.dtype"
    with pytest.raises(UserError, match=words):
        experiment.train(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_both_stages_are_trained_scored_and_published(config, tmp_path, capsys, monkeypatch):
    workdir = tmp_path / "run"
    assert experiment.train(config, workdir)
    output = capsys.readouterr().out
    assert "Stage one, photos not trained on" in output
    assert "cosine_untaught" in output
    assert "restored.png" in output

    first, second = rows(workdir / "priors"), rows(workdir / "diffusion")
    names = {name for row in first for name in row}
    assert {"distillation", "classification", "validation/accuracy", "learning_rate"} <= names
    names = {name for row in second for name in row}
    expected = {"diffusion", "class/noise", "validation/psnr", "validation/gain_haze"}
    assert expected | {"gradient_norm", "speed/data_wait_seconds"} <= names
    rates = [row["learning_rate"] for row in second if "learning_rate" in row]
    assert rates == pytest.approx([1e-3, 5e-4])
    for step in (0, 2):  # before the first step, and after the last
        assert (workdir / "diffusion" / "pictures" / f"validation_{step}.png").is_file()
    assert [row["step"] for row in second if "validation/psnr" in row] == [0, 2]

    # Stage two uses what stage one has learned, and what is published restores images.
    _, variables, _ = load_system(workdir / "diffusion" / "weights.safetensors")
    assert variables["frozen"].keys() == {"semantic", "degradation"}
    described = json.loads((workdir / "priors" / "weights.json").read_text())
    assert (described["stage"], described["trained_steps"]) == ("priors", 2)
    scores = json.loads((workdir / "priors" / "evaluation" / "scores.json").read_text())
    assert 0 <= scores["accuracy"] <= 1

    # Finished stages are not trained again, and of the first one only its weights are needed;
    # another first stage is refused.
    before = (workdir / "diffusion" / "metrics.jsonl").read_text()
    shutil.rmtree(workdir / "priors" / "checkpoints")
    built, build_stage = [], experiment.build_stage
    monkeypatch.setattr(
        experiment, "build_stage", lambda config: built.append(config.stage) or build_stage(config)
    )
    assert experiment.train(config, workdir)
    assert built == ["diffusion"]
    assert (workdir / "diffusion" / "metrics.jsonl").read_text() == before

    # One that is asked to end while it is scored has not come to its end.
    def asked(*_, is_asked_to_end, **__):
        signal.raise_signal(signal.SIGTERM)
        if is_asked_to_end():
            raise LeftEarlyError
        yield

    with monkeypatch.context() as leaving:
        leaving.setattr(experiment, "evaluate", asked)
        assert not experiment.train(config, workdir)

    # What is only read may lie where nothing can be written.
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    files = set(workdir.rglob("*"))
    with monkeypatch.context() as read_only:
        read_only.setattr(tempfile, "TemporaryFile", refuse)
        _, folder, state, _, _ = experiment.load(config, workdir)
    assert (folder, int(state.step)) == (workdir / "diffusion", 2)
    assert set(workdir.rglob("*")) == files

    # Another average is published beside what was published before, not silently left out.
    files = sorted(path.name for path in (workdir / "diffusion").glob("*.safetensors"))
    assert files == ["weights.safetensors"]
    config.eval.ema_decay = 0.1
    assert experiment.train(config, workdir)
    files = sorted(path.name for path in (workdir / "diffusion").glob("*.safetensors"))
    assert files == ["weights.safetensors", "weights_before_1.safetensors"]
    described = json.loads((workdir / "diffusion" / "weights.json").read_text())
    assert described["ema_decay"] == 0.1
    assert len(list((workdir / "priors").glob("*.safetensors"))) == 1

    # A run that has lost its checkpoints does not begin again over what it has told.
    os.rename(workdir / "diffusion" / "checkpoints", tmp_path / "aside")
    with pytest.raises(RunStoppedError, match=r"The checkpoints of .*diffusion are missing"):
        experiment.train(config, workdir)
    assert (workdir / "diffusion" / "metrics.jsonl").read_text() == before

    config.stage_one.optim.learning_rate = 0.5
    with pytest.raises(UserError, match=r"stage_one\.optim\.learning_rate: 2e-05 -> 0\.5"):
        experiment.train(config, workdir)


def test_weights_for_stage_two_that_do_not_fit_are_refused_before_stage_one(config, tmp_path):
    start = tmp_path / "start.safetensors"
    config.init_from = str(start)
    published.save(start, {}, published.describe(config) | {"parts": {}})
    with pytest.raises(UserError, match=r"start\.safetensors"):
        experiment.train(config, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("metrics.jsonl"))


@pytest.fixture
def finished(tiny_config, photo_folder, tmp_path, monkeypatch):
    """`finished(photos, is_validated=True)` -> how often the photos were scored, and the report.

    Nothing is trained: the run validates its last state, or one before, and is finished.
    """
    config = tiny_config
    config.data.eval_folder = str(photo_folder)
    scored = []

    def evaluate(variables, config, source, *, most=None, **_):
        scored.append(most)
        for index in chosen(source, most):
            image = np.zeros((8, 8, 3), np.uint8)
            pair = TestPair(source.name(index), "noise", image, image)
            yield Result(pair, image, 20.0, 30.0, 0.5, 0.6)

    data = types.SimpleNamespace(check=lambda share: None, summary=str, sources=())
    stage = types.SimpleNamespace(config=config, frozen={})
    for name, fake in {
        "open_training_data": lambda *_: data,
        "build_stage": lambda config: stage,
        "publish": lambda *_, **__: None,
        "averaged": lambda *_: None,
        "evaluate": evaluate,
    }.items():
        monkeypatch.setattr(experiment, name, fake)
    monkeypatch.setattr(experiment.setup, "place_frozen", lambda *_: {})

    def run(photos, is_validated=True):
        def train(stage, workdir, data, mesh, frozen, validate):
            validate(None, lambda: False)
            return training.Outcome(None, True, is_validated=is_validated)

        monkeypatch.setattr(training, "train", train)
        config.eval.photos = photos
        assert experiment._train_stage(config, tmp_path / "run")
        return scored, json.loads((tmp_path / "run/evaluation/scores.json").read_text())

    return run


def test_a_last_validation_of_all_photos_is_the_final_scoring(finished, capsys):
    scored, report = finished(100)
    assert scored == [100]
    assert len(report["images"]) > 2
    assert "restored.png" in capsys.readouterr().out


@pytest.mark.parametrize(("photos", "is_validated"), [(2, True), (100, False)])
def test_all_photos_are_scored_at_the_end_where_the_last_validation_left_some(
    finished, photos, is_validated
):
    scored, report = finished(photos, is_validated)
    assert scored == [photos, None]
    assert len(report["images"]) > 2


def test_a_full_disk_at_the_end_is_a_sentence(tiny_config, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name, instead in (("_publish", full), ("averaged", dict), ("_on_host", lambda *_: {})):
        monkeypatch.setattr(experiment, name, lambda *_, instead=instead: instead())
    stage, state = types.SimpleNamespace(config=tiny_config), types.SimpleNamespace(step=4)
    words = r"run\.safetensors cannot be written: No space left on device\. Check free space"
    with pytest.raises(RunStoppedError, match=words):
        experiment.publish(stage, state, None, tmp_path / "run.safetensors")


def test_a_description_that_has_lost_its_weights_does_not_keep_a_run_from_publishing(
    tiny_config, tmp_path
):
    stage, path = types.SimpleNamespace(config=tiny_config, frozen={}), tmp_path / "w.safetensors"

    def publish_at(step):
        params = {"unet": {"bias": np.full(3, step, np.float32)}}
        experiment._publish(stage, params, step, path, is_new=False, dtype="float32")

    publish_at(4)
    path.unlink()
    publish_at(5)
    assert published.load(path)[0]["trained_steps"] == 5
    for name, step in (("w", 5), ("w_before_1", 4)):
        assert json.loads((tmp_path / f"{name}.json").read_text())["trained_steps"] == step
    publish_at(5)
    assert len(list(tmp_path.glob("w*"))) == 3


@pytest.mark.parametrize("stage", ["diffusion", "both"])
def test_what_is_not_trained_yet_is_said_and_leaves_no_trace(tiny_config, tmp_path, stage):
    tiny_config.stage = stage
    with pytest.raises(UserError, match=r"holds no run \(no config\.json\); train first"):
        experiment.load(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validations_with_other_pictures_are_told_apart(tiny_config):
    class Named(list):
        name = list.__getitem__

    def number(names):
        return experiment._test_number(tiny_config, Named(names), 2)

    assert number("abcd") == number("abcx") != number("abxd")  # the first and the third are used


def test_pairs_can_be_evaluated_on_but_not_those_that_are_trained_on(tiny_config, tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("noise/LQ", "noise/GT", "fog/LQ", "fog/GT"):
        (tmp_path / folder).mkdir(parents=True)
        image = rng.integers(0, 256, (34, 40, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / folder / "1.png")
    config = tiny_config
    config.data.eval_folder = f"pairs:{tmp_path / 'noise'}"
    source = experiment.open_eval_data(config)
    assert source.unit == "pairs"
    assert len(source) == 1
    trained = [PairFolder(tmp_path / "noise", classes=("noise",))]
    with pytest.raises(UserError, match=r"shares 2 files with the training data, the first is"):
        experiment.open_eval_data(config, trained)
    listed = tmp_path / "fog" / "noise.txt"
    listed.write_text("LQ/1.png\t../noise/GT/1.png\n")
    config.data.eval_folder = f"pairs:{listed}"
    with pytest.raises(UserError, match=r"shares 1 files .*GT.1\.png"):
        experiment.open_eval_data(config, trained)
    # Also where links lead to them: of a folder, or of a file.
    (tmp_path / "link").symlink_to(tmp_path / "noise" / "GT")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "1.png").symlink_to(tmp_path / "noise" / "GT" / "1.png")
    for folder in ("link", "links"):
        config.data.eval_folder = str(tmp_path / folder)
        with pytest.raises(UserError, match=r"shares 1 files .*GT.1\.png"):
            experiment.open_eval_data(config, trained)
    config.data.eval_folder = f"pairs:{tmp_path / 'fog'}"
    with pytest.raises(UserError, match=r"'fog', which is not among"):
        experiment.open_eval_data(config)
    config.data.eval_folder = f"pairs:{tmp_path / 'noise'}*0.5"
    with pytest.raises(UserError, match=r"alone has no weight; leave out \*0\.5"):
        experiment.open_eval_data(config)
    # A folder of photos is named by its path alone, whatever it is called.
    config.data.eval_folder = str(tmp_path / "noise" / "GT")
    assert experiment.open_eval_data(config).unit == "photos"
    with pytest.raises(UserError, match=r"shares 1 files .*GT.1\.png"):
        experiment.open_eval_data(config, trained)
