"""Pairs that a text file names."""

import os
import pickle

import numpy as np
import pytest

from tpgdiff_jax.data.identity import fingerprint
from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.data.open_source import open_source
from tpgdiff_jax.data.pair_list import PairList
from tpgdiff_jax.data.training_data import parse_source
from tpgdiff_jax.reporting.errors import UserError


@pytest.fixture
def listed(tmp_path):
    """`listed(text)` -> the list `haze.txt` beside pictures of values 1 to 4 in folders."""
    names = ("in/first one.png", "out/x.png", "in/b.png", "out/y.png")
    for value, name in enumerate(names, 1):
        write_image(tmp_path / name, np.full((20, 30, 3), value, np.uint8))

    def write(text):
        path = tmp_path / "haze.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def values(source):
    return [[int(source[i][side].max()) for side in ("lq", "gt")] for i in range(len(source))]


@pytest.mark.parametrize(
    "text",
    [
        "in/first one.png\tout/x.png\nin/b.png\tout/y.png\n",
        "\ufeffin/first one.png,out/x.png\r\n\r\nin/b.png, out/y.png",
    ],
)
def test_each_line_is_a_pair(listed, text):
    source = open_source(parse_source(f"pairs:{listed(text)}*0.5"), classes=("noise", "haze"))
    assert values(source) == [[1, 2], [3, 4]]
    assert [source[0]["label"], source.classes] == [1, ("noise", "haze")]
    assert [source.name(0), source.found] == ["in/first one.png", 4]
    assert values(pickle.loads(pickle.dumps(source))) == values(source)


def test_spaces_part_paths_without_any_and_absolute_ones_are_taken(listed, tmp_path):
    path = listed(f"in/b.png   {tmp_path}/out/x.png")
    assert values(PairList(path, class_name="other")) == [[3, 2]]
    other = tmp_path / os.fsdecode(b"caf\xe9.png")
    os.link(tmp_path / "out/y.png", other)
    assert values(PairList(listed(b"in/b.png caf\xe9.png"))) == [[3, 4]]


def test_a_run_notices_that_a_truth_is_another_one(listed):
    found = [
        fingerprint([PairList(listed(f"in/b.png\t{truth}"))])
        for truth in ("out/x.png", "out/y.png")
    ]
    assert found[0] != found[1]


def test_what_cannot_be_used_is_listed(listed, tmp_path):
    write_image(tmp_path / "large.png", np.zeros((22, 30, 3), np.uint8))
    text = "in/b.png\tout/y.png\nin/b.png\tgone.png\nin/first one.png\tlarge.png\n"
    source = PairList(listed(text))
    assert values(source) == [[3, 4]]
    reasons = {os.path.relpath(k, tmp_path): v for k, v in source.report.items().items()}
    assert reasons.pop("in/b.png") == "its ground truth gone.png cannot be used"
    assert "30x20, but its ground truth large.png is 30x22" in reasons.pop("in/first one.png")
    assert list(reasons) == ["gone.png"]
    assert len(PairList(tmp_path / "haze.txt", centre_crop=True)) == 2


@pytest.mark.parametrize(
    ("text", "keys", "said"),
    [
        ("in/b.png\n", "", r"haze\.txt, line 1: 'in/b\.png': expected two paths"),
        ("\na\tb\tc\n", "", r"haze\.txt, line 2: .*expected two paths"),
        ("a.png,,b.png", "", "line 1: .*expected two paths"),
        ("in/b.png s3://bucket/b.png", "", r"line 1: s3://bucket/b\.png: a list names files of th"),
        ("\n\n", "", "holds no usable pair: the list is empty"),
        ("no.png\tnone.png", "", "holds no usable pair: .*no.png"),
        ("in/b.png\tout/y.png", "lq=in&gt=out", "is a list, which names both sides; leave lq out"),
        ("in/b.png\tout/y.png", "class_name=fog", r"pairs of class 'fog'.*pairs:.*class_name=NAME"),
    ],
)
def test_what_is_no_list_of_pairs_is_one_clear_error(listed, text, keys, said):
    with pytest.raises(UserError, match=said):
        open_source(parse_source(f"pairs:{listed(text)}?{keys}".rstrip("?")), classes=("haze",))
