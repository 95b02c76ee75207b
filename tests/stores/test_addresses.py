"""Addresses in stores: which are known, and what is said of those that cannot be used."""

import importlib.util

import pytest

from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores import places, urls


@pytest.mark.parametrize("text", ["s3://b/x", "gs://b/x/y.png", "s3:/b/x", "memory://b"])
def test_known_addresses(text):
    assert urls.is_url(text)


@pytest.mark.parametrize("text", ["photos", "/a/s3/b", "pairs:/data", "http://host/x", "s3", "a:b"])
def test_other_texts_are_no_addresses(text):
    assert not urls.is_url(text)


def test_an_address_survives_pathlib_and_slashes():
    assert urls.normal("s3:/b/x//") == urls.normal("s3://b/x") == "s3://b/x"
    assert urls.join("s3:/b/", "x/y.png") == "s3://b/x/y.png"
    assert urls.join("s3://b/x", "") == "s3://b/x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://host/x.png", "http:// is no store that can be used here"),
        ("s3://", "names no bucket"),
        ("az://box/x", "az:// is no store"),
    ],
)
def test_what_cannot_be_used_is_said(text, said):
    with pytest.raises(UserError, match=said) as caught:
        urls.check(text, "--input=")
    assert str(caught.value).startswith(f"--input={text}")


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_package_is_named_with_its_command(monkeypatch, scheme, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{package}.*pip install 'tpgdiff_jax\[{scheme}\]'"):
        urls.check(f"{scheme}://b/x", "--workdir=")


def test_errors_name_the_address_not_the_copy():
    copy = places.place("read", "s3://b/x")
    with pytest.raises(UserError, match=r"^s3://b/x/y\.png is bad$"), places.naming_addresses():
        raise UserError(f"{copy / 'y.png'} is bad")
    assert places.shown(copy / "y.png") == "s3://b/x/y.png"


def test_no_such_bucket_is_one_sentence(s3):
    said = r"s3://nowhere/x: .*bucket does not exist"
    with pytest.raises(urls.NothingThereError, match=said), urls.reaching("s3://nowhere/x"):
        urls.file_system("s3://nowhere/x").cat_file("nowhere/x")


def test_a_store_out_of_reach_is_one_sentence(s3, monkeypatch, free_address):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{free_address}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    urls._opened.cache_clear()
    urls.file_system("s3://b").clear_instance_cache()
    urls._opened.cache_clear()
    said = r"Could not connect.*Check the credentials"
    with pytest.raises(urls.StoreError, match=said), urls.reaching("s3://b/x"):
        urls.file_system("s3://b/x").find("b/x")


def test_faults_of_ours_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), urls.reaching("s3://b/x"):
        _ = 1 / 0
