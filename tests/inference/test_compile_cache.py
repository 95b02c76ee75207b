"""Compiled programs are kept for the next run, where the user wants it."""

import pathlib

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tpgdiff_jax.inference.compile_cache import default_folder, keep_compiled_programs

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
    """JAX's settings as they were, and a cache folder of our own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_programs_are_kept_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    folder = keep_compiled_programs()
    assert folder == default_folder() == tmp_path / "tpgdiff_jax" / "compiled"
    jax.jit(lambda x: x * 3 + 1)(2.0)
    assert list(folder.glob("jit_*-cache"))


def test_short_programs_are_kept_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "3")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 3)
    keep_compiled_programs()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 3
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs()
    assert jax.config.jax_persistent_cache_min_compile_time_secs < 1


def test_a_folder_chosen_before_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert keep_compiled_programs() == tmp_path / "mine"


def test_several_processes_keep_programs_where_all_of_them_see_them(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    shared = tmp_path / "run" / ".compiled"
    assert keep_compiled_programs(shared) == shared
    assert not shared.exists()  # a mistyped --workdir is not made
    jax.jit(lambda x: x * 5 + 1)(2.0)
    assert list(shared.glob("jit_*-cache"))


def test_nothing_is_kept_where_the_user_said_no_or_the_folder_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert keep_compiled_programs() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder().is_relative_to(pathlib.Path.home())
    jax.config.update("jax_enable_compilation_cache", False)
    assert keep_compiled_programs() is None
    assert jax.config.jax_compilation_cache_dir is None
