"""Photos, pairs, records and weights in a store: what is read is what lies there."""

import contextlib
import io
import json
import types

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from tpgdiff_jax.benchmark.finding import AbsentSetError, open_set
from tpgdiff_jax.benchmark.sets import SetSpec
from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.commands import flags as typed
from tpgdiff_jax.commands.addresses import check_addresses
from tpgdiff_jax.config import base_config
from tpgdiff_jax.data.open_source import open_source
from tpgdiff_jax.data.pictures import door
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.inference.plan import plan
from tpgdiff_jax.inference.weights import load_any
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores import urls
from tpgdiff_jax.stores.outputs import writing


def png(seed, size=(20, 24)):
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return image, file.getvalue()


def test_photos_are_those_of_the_store(store, put):
    images = [png(seed) for seed in range(2)]
    put(store("set/a.png"), images[0][1])
    put(store("set/below/b.png"), images[1][1])
    put(store("set/.hidden/c.png"), images[1][1])
    put(store("set/notes.txt"), b"no picture")
    source = open_source({"kind": "photos", "path": store("set")})
    assert [source.name(index) for index in range(len(source))] == ["a.png", "below/b.png"]
    np.testing.assert_array_equal(source[1], images[1][0])


def test_pairs_and_test_sets_are_those_of_the_store(store, put):
    for side in ("LQ", "GT"):
        for name in "ab":
            put(store(f"sets/rain/{side}/{name}.png"), png(ord(name))[1])
    source = open_source({"kind": "pairs", "path": store("sets/rain")})
    assert len(source) == 2
    np.testing.assert_array_equal(source[0]["gt"], png(ord("a"))[0])
    spec = SetSpec(name="rain", folder="rain")
    assert [item.name for item in open_set(spec, store("sets")).items] == ["a.png", "b.png"]
    spec = SetSpec(name="rain", folder=".")
    assert len(open_set(spec, store("sets/rain")).items) == 2
    with pytest.raises(AbsentSetError, match=r"haze: nothing lies there"):
        open_set(SetSpec(name="haze", folder="haze"), store("sets"))


def test_a_list_of_pairs_in_a_store_is_refused(store, put):
    put(store("noise.txt"), b"a.png b.png")
    with pytest.raises(UserError, match=r"pairs:\w+://.*/noise\.txt is no folder: a list of"):
        open_source({"kind": "pairs", "path": store("noise.txt")})


def test_sets_of_tfds_in_a_store_are_refused():
    with pytest.raises(UserError, match=r"tfds_pairs:s3://b/x: sets of TFDS.*copy it"):
        open_source({"kind": "tfds_pairs", "path": "s3://b/x", "split": "train"})


def test_a_picture_is_read_from_its_address(store, put):
    image, data = png(3)
    put(store("a.png"), data)
    put(store("b.png"), b"no picture")
    assert door.read_size(store("a.png")) == (20, 24)
    np.testing.assert_array_equal(door.read_picture(store("a.png")).pixels, image)
    with pytest.raises(UnreadableImageError, match=r"b\.png: not an image"):
        door.read_picture(store("b.png"))
    with pytest.raises(UnreadableImageError, match=r"c\.png: .*c\.png"):
        door.read_picture(store("c.png"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("in", ["a.png", "below/b.png", "below/c.png"]),
        ("in/a.jpg", ["a.png"]),
        ("in/below/d.txt", ["d.png"]),
        ("in/below/*.png", ["b.png"]),
        ("in/**/*.png", ["below/b.png"]),
        ("in/below", ["b.png", "c.png"]),
    ],
)
def test_what_an_input_means(store, put, tmp_path, text, expected):
    for name in ("a.jpg", "below/b.png", "below/c.jpg", "below/d.txt", ".e/f.png"):
        put(store(f"in/{name}"), b"1")
    tasks = plan([store(text)], tmp_path / "out")
    assert [task.target.relative_to(tmp_path / "out").as_posix() for task in tasks] == expected
    assert all(urls.named(task.source).startswith(store("in/")) for task in tasks)


def test_results_in_a_store_are_no_inputs(store, put, tmp_path):
    put(store("in/a.png"), b"1")
    put(store("in/out/a.png"), b"1")
    import pathlib

    (task,) = plan([store("in")], pathlib.Path(store("in/out")))
    assert urls.named(task.source) == store("in/a.png")
    assert urls.named(task.target) == store("in/out/a.png")
    with pytest.raises(UserError, match="are one folder"):
        plan([store("in")], pathlib.Path(store("in")))
    with pytest.raises(UserError, match="nothing there is an image"):
        plan([store("mistyped")], tmp_path)


def test_weights_are_those_of_the_store(store, put, tiny_system, tmp_path):
    description = published.describe(tiny_system.config)
    with writing(store("w/tiny.safetensors")) as path:
        published.save(path, tiny_system.variables["params"], description)
    _, variables, _, fingerprint = load_any(store("w/tiny.safetensors"))
    kernel = variables["params"]["unet"]["final_conv"]["kernel"]
    np.testing.assert_array_equal(
        kernel, tiny_system.variables["params"]["unet"]["final_conv"]["kernel"]
    )
    told = urls.file_system(store("x")).cat_file(urls.key_of(store("w/tiny.json")))
    assert json.loads(told)["weights"] == fingerprint
    put(store("w/bad.safetensors"), b"<html>")
    with pytest.raises(UserError, match=r"^\w+://.*/w/bad\.safetensors.*a web page"):
        load_any(store("w/bad.safetensors"))


def test_outputs_that_are_there_are_not_replaced(store, put):
    put(store("w/a.json"), b"theirs")
    with pytest.raises(UserError, match=r"w/a\.json exists already"):
        write(store("w/a.bin"))
    assert urls.file_system(store("x")).cat_file(urls.key_of(store("w/a.json"))) == b"theirs"
    with pytest.raises(UserError, match=r"w/a\.json exists already"):
        write(store("w/a.json"))
    with pytest.raises(UserError, match="is a bucket"):
        write(store("").rpartition("/")[0])


def write(url):
    with writing(url) as path:
        path.write_bytes(b"1")
        path.with_suffix(".json").write_bytes(b"2")


# -- What is typed ------------------------------------------------------------------------------


@contextlib.contextmanager
def parsed(tmp_path, *words):
    with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver():
        patch.chdir(tmp_path)
        patch.setattr("sys.argv", argv := ["main", *words])
        flags.FLAGS.unparse_flags()
        typed.parse_flags(argv)
        yield flags.FLAGS


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--mode=restore", "--input=http://h/x.png"), r"--input=http://h/x\.png: http:// is no"),
        (("--mode=restore", "--input=a", "--output=ftp://x"), r"--output=ftp://x: ftp:// is no"),
        (("--mode=restore", "--input=a", "--checkpoint=s3://"), r"--checkpoint=s3:// names no"),
        (("--mode=serve", "--checkpoint=az://b/x"), r"--checkpoint=az://b/x: az:// is no"),
    ],
)
def test_flags_that_cannot_be_used_are_named(tmp_path, words, said):
    with parsed(tmp_path, *words) as values, pytest.raises(UserError, match=said):
        check_addresses(base_config(), values)
    assert not list(tmp_path.glob("*:*"))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data.train_folder", "http://h/x", r"config\.data\.train_folder=http://h/x: http://"),
        ("data.train_sources", ("photos:az://b/x*2",), r"data\.train_sources.*az:// is no"),
        ("data.train_sources", ("tfds_photos:s3://b/x@train",), r"tfds_photos:s3://b/x: sets of"),
        ("data.eval_folder", "pairs:ftp://x", r"data\.eval_folder: ftp://x: ftp:// is no"),
        ("priors.weights", "s3://", r"config\.priors\.weights=s3:// names no bucket"),
        ("init_from", "hf://x/y", r"config\.init_from=hf://x/y: hf:// is no"),
        ("benchmark.root", "az://x/y", r"config\.benchmark\.root=az://x/y: az:// is no"),
        ("benchmark.inception_weights", "s3://b/x", r"inception_weights=s3://b/x: only a local"),
    ],
)
def test_keys_that_cannot_be_used_are_named(key, value, said):
    config = base_config()
    group, _, name = key.rpartition(".")
    (config[group] if group else config)[name] = value
    values = {
        name: types.SimpleNamespace(value=None)
        for name in ("input", "output", "workdir", "checkpoint", "predictions")
    }
    with pytest.raises(UserError, match=said):
        check_addresses(config, values)
