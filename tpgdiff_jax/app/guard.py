"""What comes in from a browser: which addresses, how much, and how slowly."""

import asyncio
import time
from collections.abc import Callable

import fastapi
from fastapi.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tpgdiff_jax.app.limits import Limits

# Of Gradio's addresses, those the page uses.  Not among them: files by their path, other sites'
# files, and everything that serves pages shared with others.
_OPEN = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json")
_OPEN_BELOW = (
    *("/static/", "/assets/", "/svelte/", "/pictures/", "/samples/"),
    *("/gradio_api/queue/", "/gradio_api/heartbeat/", "/gradio_api/upload"),
    *("/gradio_api/startup-events", "/gradio_api/app_id", "/gradio_api/info"),
    *("/gradio_api/cancel", "/gradio_api/reset"),
)
_HEADERS = {
    # The browser itself fetches nothing from elsewhere.  Gradio's templates are functions made of
    # text, and its style and script stand in the page.
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
        "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "connect-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_UPLOAD = "/gradio_api/upload"
_FORM_BYTES = 2**20  # of a request besides its file: what surrounds it, or what the page asks for
_SENTENCES = {
    408: "The upload stood still; try again.",
    413: "The file is larger than this page takes.",
    507: "This page holds too many pictures already; try again later.",
}


class Guard:
    """Lets through what `_OPEN` and `_OPEN_BELOW` name, and adds headers; ASGI middleware.

    What a visitor sends has a most size and a least speed: a body larger than one upload is cut
    off, and so is one that stands still.
    """

    def __init__(self, app: ASGIApp, limits: Limits, is_full: Callable[[], bool]):
        """Wrap an application.

        Args:
          app: it.
          limits: of what is sent.
          is_full: tells whether no more uploads fit.
        """
        self._app, self._limits, self._is_full = app, limits, is_full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"]

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
                message = message | {"headers": [*message["headers"], *added]}
            await send(message)

        known = path in _OPEN or path.startswith(_OPEN_BELOW)
        if not known or ".." in path:
            return await fastapi.Response(status_code=404)(scope, receive, with_headers)
        is_upload = path == _UPLOAD
        most = self._limits.file_bytes + _FORM_BYTES if is_upload else _FORM_BYTES
        if _announced(scope) > most:
            return await _refusal(413)(scope, receive, with_headers)
        if is_upload and self._is_full():
            return await _refusal(507)(scope, receive, with_headers)
        body = _Body(receive, most, self._limits)

        async def unless_cut(message: Message) -> None:
            if not body.status:
                await with_headers(message)

        try:
            await self._app(scope, body.receive, unless_cut)
        except Exception:  # what a visitor who went has left half is no fault of ours
            if not body.is_gone:
                raise
        if body.status:
            await _refusal(body.status)(scope, receive, with_headers)


class _Body:
    """What a visitor sends, until it is whole.

    Attributes:
      status: of the answer, where it was cut off; else 0.
      is_gone: no more comes, though it is not whole.
    """

    def __init__(self, receive: Receive, most: int, limits: Limits):
        """Take what receives it, and how many bytes it may have."""
        self.status, self.is_gone = 0, False
        self._receive, self._left, self._seconds = receive, most, limits.stalled_seconds
        self._end = time.monotonic() + limits.upload_seconds
        self._is_whole = False

    async def receive(self) -> Message:
        """Return the next part; where there is to be none any more, that the visitor has gone."""
        if self._is_whole and not self.status:
            return await self._receive()
        seconds = min(self._seconds, self._end - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), max(0, seconds))
        except TimeoutError:
            return self._cut(408)
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
        self.is_gone |= message["type"] == "http.disconnect"
        return self._cut(413) if self._left < 0 else message

    def _cut(self, status: int) -> Message:
        """End as if the visitor had gone; the answer is given afterwards."""
        self.status, self.is_gone = status, True
        return {"type": "http.disconnect"}


def _announced(scope: Scope) -> int:
    """Return how many bytes a request says it has; 0 where it does not."""
    text = dict(scope["headers"]).get(b"content-length", b"")
    return int(text) if text.isdigit() else 0


def _refusal(status: int) -> fastapi.Response:
    return PlainTextResponse(_SENTENCES[status], status_code=status)
