"""The page under attack: it answers or refuses, its memory stays flat, and visitors are served."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fuzzing import cases
from visitors import Visitor, form, head, photo, silent

pytest.importorskip("gradio", reason="the extra app is not installed: pip install '.[app]'")

_HERE = pathlib.Path(__file__).parent
_MIB = 2**20
_FLAT = 48  # MiB by which memory may grow while an attack goes on
# The picture itself lies with the page; what a browser sends back for it is not looked at.
RESTORE = [None, "posterior", 1, 0, False, False, False]
LIMIT = 4 * _MIB  # of page_server.LIMITS


class Page:
    """A page that runs in a process of its own."""

    def __init__(self, port: int, folder: pathlib.Path):
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(folder)}
        environment["PYTHONPATH"] = str(_HERE.parents[1])
        self.port, self.folder = port, folder
        command = [sys.executable, str(_HERE / "page_server.py"), "127.0.0.1", str(port)]
        self._log = folder / "log.txt"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        end = time.monotonic() + 300
        while "Open http" not in self.said():
            assert time.monotonic() < end
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)
        self.events = Visitor(port).events()

    def mebibytes(self) -> float:
        """Return how much memory the process has."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s*(\d+)", status)[1]) / 1024

    def said(self) -> str:
        """Return what the process has written."""
        return self._log.read_text()

    def handles(self) -> int:
        """Return how many files and connections are open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def files(self) -> list[pathlib.Path]:
        """Return what lies in the page's folder."""
        found = self.folder.glob("tpgdiff_page_*/**/*")
        return [path for path in found if path.is_file()]

    def serves(self) -> None:
        """Assert that a visitor who comes now is served."""
        began = time.monotonic()
        shown = Visitor(self.port).choose(self.events, "mine.png", photo())
        assert "mine.png, 40x40 pixels" in shown
        assert time.monotonic() - began < 60


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page whose limits are small; it has served somebody before."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = Page(port, tmp_path_factory.mktemp("page"))
    visitor = Visitor(port)
    visitor.choose(page.events, "a.png", photo())
    assert "Done." in visitor.use(page.events["restore click"], RESTORE)
    yield page
    page.process.terminate()
    page.process.wait(timeout=60)
    assert not page.files()  # a stop removes what visitors brought


@contextlib.contextmanager
def _flat(page: Page, what: str, figure):
    """Assert that an attack leaves memory as it was, and the page at work."""
    before, began = page.mebibytes(), time.monotonic()
    yield
    page.serves()
    grown = page.mebibytes() - before
    figure(f"{what}: memory {grown:+.0f} MiB of {before:.0f}, {time.monotonic() - began:.0f} s")
    assert grown < _FLAT
    assert page.process.poll() is None


def _together(count: int, work) -> list:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


@cases(12, 200)
def test_uploads_that_come_together_are_all_answered(page, cases, figure):
    def visit(number: int) -> str:
        name = f"photo{number}.png"
        shown = Visitor(page.port).choose(page.events, name, photo(number))
        return shown if f"{name}, 40x40 pixels" in shown else f"not answered: {shown}"

    with _flat(page, f"{cases} uploads together", figure):
        shown = _together(cases, visit)
        assert not [text for text in shown if text.startswith("not answered")]


@cases(6, 200)
def test_pictures_asked_for_together_are_restored_or_refused(page, cases, figure):
    """No more than `waiting` stand in line; the others are told so."""

    def visit(number: int) -> str:
        visitor = Visitor(page.port, 300)
        visitor.choose(page.events, "a.png", photo(number))
        return visitor.use(page.events["restore click"], RESTORE)

    with _flat(page, f"{cases} restorations asked for together", figure):
        shown = _together(cases, visit)
        done = sum("Done." in text for text in shown)
        refused = sum("wait already" in text for text in shown)
        assert done + refused == cases, [t[:300] for t in shown if "Done." not in t][:3]
        assert done >= min(cases, 20)
        figure(f"{cases} restorations: {done} done, {refused} told that too many wait")


@cases(10, 100)
def test_uploads_that_break_off_leave_nothing_that_grows(page, cases, figure):
    body = form("half.png", bytes(LIMIT // 2))

    def leave(number: int) -> None:
        with silent(page.port) as connection:
            connection.sendall(head(len(body)) + body[: len(body) // (2 + number % 3)])

    with _flat(page, f"{cases} uploads broken off", figure):
        _together(min(cases, 20), leave)
        for number in range(cases - min(cases, 20)):
            leave(number)


@cases(4, 20)
@pytest.mark.parametrize("how", ["announced", "in chunks", "as a field", "as a question"])
def test_100_megabytes_are_refused(page, cases, how, figure):
    """Refused where the head says so, else as soon as it is too much; never kept."""
    target = "/gradio_api/queue/join" if how == "as a question" else "/gradio_api/upload"
    start = form("large.png", b"").rpartition(b"\r\n--")[0]
    if how == "as a field":
        start = start.replace(b'; filename="large.png"', b"")
    part = bytes(2**16)

    def send(_: int) -> int:
        with silent(page.port) as connection:
            connection.sendall(head(100 * _MIB if how == "announced" else None, target))
            with contextlib.suppress(ConnectionError):  # the page has answered and hung up
                for data in (start, *[part] * (100 * _MIB // len(part))):
                    chunked = f"{len(data):x}\r\n".encode() + data + b"\r\n"
                    connection.sendall(data if how == "announced" else chunked)
            return _status(connection)

    with _flat(page, f"{cases} uploads of 100 MiB, {how}", figure):
        before = _bytes_of(page)
        assert set(_together(cases, send)) == {413}
        assert _bytes_of(page) - before <= cases * (LIMIT + _MIB)  # until they are swept


def _bytes_of(page: Page) -> int:
    return sum(path.stat().st_size for path in page.files())


def _status(connection: socket.socket) -> int:
    try:
        answer = connection.recv(4096)
    except OSError:
        return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0


@cases(8, 100)
def test_slow_visitors_are_cut_off_and_keep_nobody_waiting(page, cases, figure):
    before = page.handles()
    body = form("slow.png", photo())
    slow = [silent(page.port) for _ in range(cases)]
    with _flat(page, f"{cases} visitors who send a byte a second or nothing", figure):
        for number, connection in enumerate(slow):
            connection.sendall(head(len(body)) + body[: number % 40])
        page.serves()
        statuses = [_status(connection) for connection in slow]  # each waits at most a minute
        assert set(statuses) == {408}
    for connection in slow:
        connection.close()
    time.sleep(1)
    assert page.handles() < before + 10


@cases(20, 400)
def test_connections_that_say_nothing_keep_nobody_waiting(page, cases, figure):
    mute = [silent(page.port) for _ in range(cases)]
    with _flat(page, f"{cases} connections that say nothing", figure):
        page.serves()
    for connection in mute:
        connection.close()


WRONG = {
    "text.png": b"no picture",
    "page.png": b"<!doctype html><html></html>",
    "zip.png": b"PK\x03\x04" + bytes(100),
    "pickle.png": b"\x80\x02cposix\nsystem\n.",
    "empty.png": b"",
    "cut.png": photo()[:200],
    "program.exe": b"MZ" + bytes(100),
    "../../x.png": b"up",
    "\0.png": b"zero",
    "video.mp4": bytes(4) + b"ftypisom",
}


def test_wrong_types_are_one_sentence_each(page):
    for name, content in WRONG.items():
        shown = Visitor(page.port).choose(page.events, name, content)
        assert "pictures/" not in shown, name
        assert "Traceback" not in shown
    page.serves()


def test_questions_of_wrong_types_are_answered(page):
    """What no browser sends: other kinds of values for every component, other numbers, no JSON."""
    restore = page.events["restore click"]
    odd = (None, "x", -1, 1e300, [], {}, [[[]]], {"path": "/etc/passwd"}, True, "a" * 10_000)
    for value in odd:
        visitor = Visitor(page.port)
        visitor.choose(page.events, "a.png", photo())
        for data in ([None, value, value, value, value], [value] * 5, value):
            shown = visitor.use(restore, data)
            assert "root:" not in shown
            assert "Traceback" not in shown
        shown = visitor.use(page.events["upload upload"], [value])
        assert "pictures/" not in shown
    visitor = Visitor(page.port)
    for number in (-1, 10**6, "x", None, 1.5):
        visitor.use(number, [])
    for body in (b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null", json.dumps([1]).encode()):
        status, _ = visitor.ask("POST", "/gradio_api/queue/join", body)
        assert 400 <= status < 600
    page.serves()
