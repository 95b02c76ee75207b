"""Stores to test with: fsspec's memory, and a real server of S3 on this machine."""

import importlib.util
import itertools
import logging
import os
import threading

import fsspec
import pytest

from tpgdiff_jax.stores import sending, urls, writer

_NUMBERS = itertools.count()  # of buckets


class Killed(BaseException):
    """A process that is killed: nothing may catch it."""


@pytest.fixture(autouse=True)
def _machine(tmp_path, monkeypatch):
    """Give each test an empty cache and quick writers, and the memory file system nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine"))
    monkeypatch.setattr(writer, "_SETTLE", 0.01)
    monkeypatch.setattr(writer, "_BEAT", 0.05)
    monkeypatch.setattr(writer, "_PATIENCE", 10.0)  # of a busy machine
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def another_machine(tmp_path, monkeypatch):
    """`another_machine()` goes on with an empty cache, as on another machine."""
    count = iter(range(100))

    def move():
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"another_{next(count)}"))

    return move


@pytest.fixture(scope="session")
def _server():
    for package in ("s3fs", "moto", "flask", "flask_cors"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is missing: pip install s3fs 'moto[s3]' flask flask-cors")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(_server, monkeypatch):
    """`s3(name)` -> the address of a name in an empty bucket of a real S3 server."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", _server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    urls._opened.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    bucket = f"bucket-{next(_NUMBERS)}"
    urls.file_system("s3://any").mkdir(bucket)
    yield lambda name: f"s3://{bucket}/{name}"
    urls._opened.cache_clear()


@pytest.fixture(params=["memory", "s3"])
def store(request):
    """`store(name)` -> an address, in each kind of store in turn."""
    if request.param == "memory":
        return lambda name: f"memory://bucket/{name}"
    return request.getfixturevalue("s3")


@pytest.fixture
def put():
    """`put(address, content)` writes an object, as somebody else would."""

    def write(address, content):
        urls.file_system(address).pipe_file(urls.key_of(address), content)

    return write


class _Killing:
    """A file system whose process is killed after some changes."""

    def __init__(self, system, changes):
        self._system, self._left, self._lock = system, changes, threading.Lock()

    def __getattr__(self, name):
        found = getattr(self._system, name)
        if name not in ("pipe_file", "put_file", "rm_file"):
            return found

        def change(*arguments):
            with self._lock:
                self._left -= 1
                if self._left < 0:
                    raise Killed
                return found(*arguments)

        return change


@pytest.fixture
def killed_after(monkeypatch):
    """`with killed_after(3):` ends a process at its fourth change of a store."""

    class Context:
        def __init__(self, changes):
            self._changes = changes

        def __enter__(self):
            self._patch = pytest.MonkeyPatch()
            found = urls._opened("memory")
            killing = _Killing(found, self._changes)
            self._patch.setattr(urls, "_opened", lambda scheme: killing)
            self._patch.setattr(sending, "write_record", lambda *_: None)  # it is dead by then

        def __exit__(self, kind, error, traceback):
            self._patch.undo()
            return kind is Killed

    return Context
