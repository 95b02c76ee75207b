"""What the page's server answers, and what it does not: files of the machine, other sites."""

import asyncio
import io
import json
import signal
import socket
import threading
import time

import numpy as np
import pytest
from app_files import LIMITS, PHOTO, encoded, png_of
from PIL import Image

pytest.importorskip("gradio", reason="the extra app is not installed: pip install '.[app]'")

import uvicorn
from fastapi.testclient import TestClient

from tpgdiff_jax.app import server
from tpgdiff_jax.app.service import Service, shipped_samples
from tpgdiff_jax.commands import modes
from tpgdiff_jax.reporting.errors import UserError

PHOTO_PNG = encoded(Image.fromarray(PHOTO), "PNG")


@pytest.fixture(scope="module")
def service(restorer, tmp_path_factory):
    """A service that all tests here share: a page takes a while to be laid out."""
    return Service(restorer, tmp_path_factory.mktemp("served"), LIMITS)


@pytest.fixture(scope="module")
def client(service):
    """A client of the page's server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")  # so that it is as before afterwards
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "")
        server.use_folder(service.store.uploads.parent)
        app = server.create_app(service, ["127.0.0.1", "localhost", "[::1]"])
        with TestClient(app, base_url="http://127.0.0.1") as client:
            yield client


@pytest.fixture
def asked_for(monkeypatch):
    """Addresses outside this machine that anything in this process asks for."""
    found, connect, look_up = [], socket.socket.connect, socket.getaddrinfo

    def is_local(host) -> bool:
        return host is None or str(host) in ("127.0.0.1", "::1", "localhost", "")

    def watched_connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
            found.append(address)
            raise OSError("no network")
        return connect(self, address)

    def watched_look_up(host, *args, **options):
        if not is_local(host):
            found.append(host)
            raise socket.gaierror("no network")
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket.socket, "connect", watched_connect)
    monkeypatch.setattr(socket, "getaddrinfo", watched_look_up)
    return found


def uploaded(client, name: str, content: bytes) -> str:
    answer = client.post("/gradio_api/upload", files={"files": (name, content)})
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


def call(client, target: str, data: list, session: str = "someone") -> list[dict]:
    """Use a component as the page does; return the messages that come."""
    config = client.get("/config").json()
    events = [d for d in config["dependencies"] if any(t[1] == target for t in d["targets"])]
    body = {"data": data, "fn_index": events[0]["id"], "session_hash": session}
    assert client.post("/gradio_api/queue/join", json=body).status_code == 200
    messages = []
    url = f"/gradio_api/queue/data?session_hash={session}"
    with client.stream("GET", url) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                messages.append(json.loads(line[5:]))
                if messages[-1]["msg"] in ("process_completed", "close_stream"):
                    break
    return messages


def of_file(path: str, name: str) -> dict:
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def test_the_page_names_nothing_outside(client):
    page = client.get("/").text
    assert "Restore a photograph" in page
    for kind in ("fonts.googleapis", "fonts.gstatic", "cdnjs", "cdn.jsdelivr", "gradio.s3"):
        assert kind not in page
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert all(d["api_visibility"] == "private" for d in config["dependencies"])


def test_nothing_leaves_while_a_picture_is_chosen(client, service, asked_for):
    path = uploaded(client, "photo.png", PHOTO_PNG)
    messages = call(client, "upload", [of_file(path, "my photo (1).png")])
    assert messages[-1]["success"], messages[-1]
    shown = json.dumps(messages[-1]["output"])
    assert "my photo (1).png, 48x40 pixels" in shown
    token = shown.split("pictures/")[1].split('\\"')[0]
    preview = client.get(f"/pictures/{token}")
    assert preview.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(preview.content))), PHOTO)
    assert asked_for == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text.png", b"no picture", "text.png: not an image"),
        ("bomb.png", png_of(6000, 6000), "36.0 megapixels"),
    ],
)
def test_a_bad_upload_is_one_sentence_on_the_page(client, name, content, words):
    messages = call(client, "upload", [of_file(uploaded(client, name, content), name)])
    assert messages[-1]["success"]
    assert words in json.dumps(messages[-1]["output"])


def test_a_heavy_upload_is_refused_before_it_is_read(client):
    heavy = {"files": ("heavy.png", bytes(2**20 + 1))}
    assert client.post("/gradio_api/upload", files=heavy).status_code == 413


ESCAPES = (
    "/gradio_api/file={secret}",
    "/file={secret}",
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=../../../../../../etc/passwd",
    "/gradio_api/file=http://example.com/",
    "/gradio_api/proxy=http://example.com/",
    "/pictures/..%2f..%2fetc%2fpasswd",
    "/pictures/../../etc/passwd",
    "/samples/..%2fsecret.txt",
    "/samples/{secret}",
    "/static/../../../../../../../../etc/passwd",
    "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/assets/..%2f..%2f..%2f..%2fblocks.py",
    "/docs",
    "/openapi.json",
    "/monitoring",
)


@pytest.mark.parametrize("url", ESCAPES)
def test_files_of_the_machine_are_not_served(client, tmp_path, asked_for, url):
    secret = tmp_path / "secret.txt"
    secret.write_text("between us")
    answer = client.get(url.format(secret=secret))
    assert answer.status_code in (403, 404), answer.text[:200]
    for word in ("root:", "between us", "import ", "Example Domain"):
        assert word not in answer.text
    assert asked_for == []


def test_a_link_or_a_path_given_for_an_upload_is_not_taken(client, service, tmp_path, asked_for):
    """The page's own browser never sends these."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(PHOTO_PNG)
    folder = service.store.uploads / "x"
    folder.mkdir()
    (folder / "link.png").symlink_to(secret)
    for path in (secret, folder / ".." / ".." / ".." / "secret.png", folder / "link.png"):
        shown = json.dumps(call(client, "upload", [of_file(str(path), "photo.png")])[-1])
        assert "pictures/" not in shown, path
    assert secret.is_file()
    shown = json.dumps(call(client, "upload", [of_file("http://example.com/a.png", "a.png")]))
    assert "pictures/" not in shown
    assert asked_for == []


def test_an_upload_is_not_served_under_its_path(client):
    path = uploaded(client, "photo.png", PHOTO_PNG)
    assert client.get(f"/gradio_api/file={path}").status_code == 404


def test_another_sites_name_is_not_answered(client):
    assert client.get("/", headers={"host": "example.com"}).status_code == 400


def test_visitors_are_told_where_their_picture_goes(client, service):
    stays, is_sent = "It stays on this machine.", "It is sent to this page's server, unencrypted,"
    here = client.get("/config").text
    assert stays in here
    assert is_sent not in here
    # Not entered: its end would remove the files of the service.
    far = TestClient(server.create_app(service), base_url="http://10.0.0.1").get("/config").text
    assert f"{is_sent} and removed when you close the page, after 60 min at the latest." in far
    assert stays not in far


def test_a_port_that_is_taken_is_one_sentence():
    with server.listening("127.0.0.1", 0) as ear:
        port = ear.getsockname()[1]
        with pytest.raises(UserError, match=f"--port={port}: this address cannot be used"):
            modes.serve("127.0.0.1", port, None, False)
    with pytest.raises(UserError, match=r"--host=192\.0\.2\.1 .*cannot be used"):
        server.listening("192.0.2.1", 0)


def test_an_end_while_a_page_is_open_says_nothing(caplog):
    """A page that is open holds a request that has no end."""
    asked = threading.Event()

    async def endless(scope, receive, send):
        asked.set()
        await asyncio.sleep(60)

    options = {"log_level": "warning", "log_config": None, "lifespan": "off"}
    config = uvicorn.Config(endless, timeout_graceful_shutdown=0, **options)
    with server.listening("127.0.0.1", 0) as ear:
        web = server.Server(config)
        thread = threading.Thread(target=web.run, kwargs={"sockets": [ear]})
        thread.start()
        with socket.create_connection(ear.getsockname()) as page:
            page.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert asked.wait(20)
            web.handle_exit(signal.SIGINT, None)
            thread.join(20)
    assert not thread.is_alive()
    assert caplog.messages == []


def test_nothing_leaves_while_a_page_is_laid_out_and_a_stop_removes_every_file(
    restorer, tmp_path, monkeypatch, asked_for
):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
    server.use_folder(tmp_path)
    service = Service(restorer, tmp_path, LIMITS, shipped_samples())
    with TestClient(server.create_app(service), base_url="http://127.0.0.1") as client:
        uploaded(client, "photo.png", PHOTO_PNG)
        service.accept_sample("me", "clock")
        assert [path for path in tmp_path.glob("**/*") if path.is_file()]
        time.sleep(0.5)  # threads that would tell somebody
    assert not [path for path in tmp_path.glob("**/*") if path.is_file()]
    assert asked_for == []
