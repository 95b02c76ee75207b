"""Visitors of the page, good ones and others, by bare sockets and HTTP."""

import http.client
import io
import json
import socket
import uuid

import numpy as np
from PIL import Image

_BOUNDARY = "----faults"


def photo(seed: int = 0, side: int = 40) -> bytes:
    """Return a PNG file of so many pixels a side, of which no two are alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def form(name: str, content: bytes) -> bytes:
    """Return the body of an upload."""
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + content + f"\r\n--{_BOUNDARY}--\r\n".encode()


def head(length: int | None, target: str = "/gradio_api/upload") -> bytes:
    """Return the head of a request; without a length its body comes in chunks."""
    how = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{how}\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\n\r\n"
    ).encode()


class Visitor:
    """One browser's page."""

    def __init__(self, port: int, seconds: float = 120):
        self._port, self._seconds = port, seconds
        self.session = uuid.uuid4().hex[:12]

    def ask(self, method: str, target: str, body: bytes = b"", kind: str = "application/json"):
        """Return (status, body) of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._seconds)
        try:
            connection.request(method, target, body, {"Content-Type": kind})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def upload(self, name: str, content: bytes) -> tuple[int, bytes]:
        """Send a file."""
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        return self.ask("POST", "/gradio_api/upload", form(name, content), kind)

    def use(self, number: int, data: object) -> str:
        """Use a component; return what the page then shows, as JSON text."""
        asked = {"data": data, "fn_index": number, "session_hash": self.session}
        status, body = self.ask("POST", "/gradio_api/queue/join", json.dumps(asked).encode())
        if status != 200:
            return f"{status} {body.decode(errors='replace')}"
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._seconds)
        last = ""
        try:
            connection.request("GET", f"/gradio_api/queue/data?session_hash={self.session}")
            answer = connection.getresponse()
            for line in answer:
                if line.startswith(b"data:"):
                    message = json.loads(line[5:])
                    if message["msg"] in ("process_completed", "close_stream"):
                        return json.dumps(message) if message["msg"] != "close_stream" else last
                    last = json.dumps(message)
            return last
        finally:
            connection.close()

    def events(self) -> dict[str, int]:
        """Return the number of each event, by what is used: upload, click of a button."""
        config = json.loads(self.ask("GET", "/config")[1])
        ids = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
        found = {}
        for event in config["dependencies"]:
            for part, what in event["targets"]:
                found[f"{ids.get(part)} {what}"] = event["id"]
        return found

    def choose(self, events: dict[str, int], name: str, content: bytes) -> str:
        """Upload a picture and choose it, as the page does; return what is shown."""
        status, body = self.upload(name, content)
        if status != 200:
            return f"{status} {body.decode(errors='replace')}"
        path = json.loads(body)[0]
        data = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        return self.use(events["upload upload"], [data])


def silent(port: int) -> socket.socket:
    """Connect and say nothing."""
    return socket.create_connection(("127.0.0.1", port), timeout=60)
