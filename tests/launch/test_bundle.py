"""Bundles for machines without a network: what is packed, and training from one."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPT = ROOT / "launch" / "bundle_train.sh"

TINY = """
from tpgdiff_jax.config import base_config


def get_config():
    config = base_config()
    config.model.update({"width": 8, "multipliers": (1, 1), "attention_heads": 1, "head_dim": 8})
    config.model.update({"first_attention_level": 1, "prediction": "x0"})
    config.model.update({"use_degradation": False, "use_semantic": False, "use_structure": False})
    config.priors.encoder = "none"
    config.data.update({"crop_size": 16, "batch_size": 2, "workers": 1})
    config.data.degradations = ("noise",)
    config.loss.objective = "residual"
    config.optim.update({"steps": 1_000_000, "learning_rate": 1e-3})
    config.checkpoint.every_steps = 1_000_000
    config.log.every_steps = 5
    return config
"""


@pytest.fixture
def launch(monkeypatch):
    """The modules beside launch/bundle.py; that one defines flags, so it is run instead."""
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    import bundle_photos
    import bundle_wheels

    return {"photos": bundle_photos, "wheels": bundle_wheels}


def bundle(*arguments, **options):
    command = [sys.executable, str(ROOT / "launch" / "bundle.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def fake_wheels(monkeypatch, wheels, index):
    """Let `index`, name -> (version, what it needs), stand for what pip finds."""

    def download(folder, requirement, *_):
        version, needs = index[requirement.name]
        path = folder / f"{requirement.name}-{version}-py3-none-any.whl"
        lines = "".join(f"Requires-Dist: {need}\n" for need in needs)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{requirement.name}-{version}.dist-info/METADATA", lines)
        return path

    monkeypatch.setattr(wheels, "_download", download)


def test_wheels_are_those_that_are_absent_or_too_old_and_what_they_need(
    tmp_path, launch, monkeypatch
):
    wheels = launch["wheels"]
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# all\ngrain>=0.2\nnumpy>=2.0\nflax>=0.12\ntqdm>=4  # bars\ntfds\n")
    listed = tmp_path / "present.txt"
    listed.write_text("Numpy==2.5\nflax==0.10\ntqdm, etils\n")
    index = {
        "grain": ("0.2.18", ["array-record; sys_platform != 'win32'", "etils[epath]", "numpy"]),
        "array-record": ("0.8", ["win; sys_platform == 'win32'", "test; extra == 'test'"]),
        "flax": ("0.12.8", ["old; python_version < '3.12'"]),
    }
    fake_wheels(monkeypatch, wheels, index)
    found = wheels.collect(
        tmp_path / "wheels",
        requirements=requirements,
        present=wheels.read_present(listed),
        without=["tfds"],
        python_version="3.12",
    )
    assert [name.split("-0")[0] for name in found] == ["array-record", "flax", "grain"]


def test_photos_are_touched_only_as_far_as_it_takes(tmp_path, launch):
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name, side in (("small.jpg", 64), ("sub/large.jpg", 640)):
        image = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        image.save(tmp_path / "photos" / name, quality=98)
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "photos").rglob("*.jpg")}
    pack = launch["photos"].pack
    same = pack(tmp_path / "photos", tmp_path / "whole", sum(sizes.values()))
    assert same["untouched"] == 2
    budget = sizes["small.jpg"] + sizes["large.jpg"] // 2
    fewer = pack(tmp_path / "photos", tmp_path / "half", budget)
    assert fewer["untouched"] == fewer["encoded"] == 1
    small, large = tmp_path / "half" / "small.jpg", tmp_path / "half" / "sub" / "large.jpg"
    assert small.read_bytes() == (tmp_path / "photos" / "small.jpg").read_bytes()
    assert small.stat().st_size + large.stat().st_size <= budget
    with Image.open(large) as image:
        assert min(image.size) >= 256
    with pytest.raises(ValueError, match=r"2 photos take .* MiB .* Give fewer, or raise --limit"):
        pack(tmp_path / "photos", tmp_path / "none", 1000)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["--output is missing"]),
        (("--output=new", "--photos=."), ["--present is missing", "pip list"]),
        (("--output=.", "--photos=.", "--nowheels"), ["--output=", "something else"]),
        (("--output=new", "--photos=none", "--nowheels", "--nocode"), ["--photos=none"]),
        (("--output=new", "--photos=.", "--nowheels", "--config=no.py"), ["no.py is no file"]),
    ],
)
def test_mistakes_are_named(tmp_path, arguments, words):
    (tmp_path / "mine.txt").write_text("mine")
    config = ROOT / "configs" / "quickstart.py"
    done = bundle(f"--config={config}", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert all(word in done.stderr for word in words), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--minuts=3"], "--minuts=3 is no argument"),
        (["--minutes=x"], "--minutes=x is no number"),
        (["--minutes=0.5"], "leaves nothing beside the 40 seconds"),
        (["--minutes=3"], "bundle.env is missing"),
    ],
)
def test_mistakes_in_calling_the_script_are_named(tmp_path, arguments, words):
    script = tmp_path / "train.sh"
    script.write_text(SCRIPT.read_text())
    done = subprocess.run(["bash", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr


def test_packages_that_are_missing_or_too_old_are_named_before_training(tmp_path):
    (tmp_path / "train.sh").write_text(SCRIPT.read_text())
    packages = "numpy>=2 nosuchpackage>=1.5 pillow>=99"
    config = tmp_path / "tiny.py"
    config.write_text(TINY)
    (tmp_path / "bundle.env").write_text(f"BUNDLE_CONFIG=x.py\nBUNDLE_PACKAGES='{packages}'\n")
    out, workdir = tmp_path / "out", tmp_path / "runs"
    running = start_training(tmp_path, out, workdir, f"--config={config}")
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 2
    assert "this machine lacks nosuchpackage>=1.5, pillow>=99 (it has " in said
    assert "numpy" not in said


def last_step(path: pathlib.Path) -> int:
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def start_training(folder, out, workdir, *arguments):
    """Call a bundle's script as a user would, in this clone."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = ["bash", f"{folder}/train.sh", f"--python={sys.executable}", f"--out={out}"]
    command += [f"--workdir={workdir}", "--part=100000", *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
def test_training_from_a_bundle_stops_in_time_and_continues(tmp_path, photo_folder):
    config = tmp_path / "tiny.py"
    config.write_text(TINY)
    folder, out, workdir = tmp_path / "bundle", tmp_path / "out", tmp_path / "runs" / "tiny"
    pack = (f"--output={folder}", f"--photos={photo_folder}", f"--config={config}", "--nowheels")
    done = bundle(*pack, "--nocode")
    assert done.returncode == 0, done.stderr

    # Asked to end while it trains: saves, exports, hands over.
    running = start_training(folder, out, workdir, "--minutes=8", "--state")
    deadline = time.monotonic() + 400
    while not last_step(workdir / "metrics.jsonl") and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate(timeout=120)
    assert running.returncode == 0, said
    first = last_step(out / "metrics.jsonl")
    assert first > 0
    assert json.loads((out / "weights.json").read_text())["trained_steps"] == first
    parts = sorted(out.glob("weights.safetensors.part-*"))
    assert len(parts) > 1
    assert all(part.stat().st_size <= 100_000 for part in parts)
    (tmp_path / "weights.safetensors").write_bytes(b"".join(p.read_bytes() for p in parts))
    (tmp_path / "weights.json").write_bytes((out / "weights.json").read_bytes())
    from tpgdiff_jax.inference.restore import Restorer

    Restorer.load(tmp_path / "weights.safetensors")

    # The state continues elsewhere, from another bundle, until its time is up.
    state = tmp_path / "carried"
    state.mkdir()
    joined = b"".join(part.read_bytes() for part in sorted(out.glob("state.tar.part-*")))
    subprocess.run(["tar", "-x", "-C", state], input=joined, check=True)
    done = bundle(*pack, "--nocode", f"--workdir={state}")
    assert done.returncode == 0, done.stderr
    started = time.monotonic()
    elsewhere = tmp_path / "elsewhere" / "tiny"
    running = start_training(folder, out, elsewhere, "--minutes=1.5", "--reserve=60")
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 0, said
    assert time.monotonic() - started < 120
    assert "Time is up after 3" in said
    assert f"at step {first} of" in (out / "train.log").read_text()
    assert last_step(out / "metrics.jsonl") > first


def test_the_code_is_packed_as_committed(tmp_path, photo_folder):
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    config = ROOT / "configs" / "quickstart.py"
    arguments = (f"--photos={photo_folder}", f"--config={config}", "--nowheels")
    for _ in range(2):  # an older bundle is replaced
        done = bundle(f"--output={tmp_path / 'bundle'}", *arguments)
        assert done.returncode == 0, done.stderr
    code = tmp_path / "bundle" / "code"
    assert (code / "tpgdiff_jax" / "main.py").is_file()
    facts = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert len(facts["commit"]) == 40
    assert facts["photos"]["count"] == 3
    done = bundle(f"--output={tmp_path / 'other'}", *arguments, "--limit=1")
    assert "takes" in done.stderr
    assert "Raise it or pack less" in done.stderr
