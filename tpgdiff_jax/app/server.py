"""What answers the browser: the page, visitors' own files, and nothing else of this machine."""

import contextlib
import ipaddress
import logging
import os
import pathlib
import socket
import tempfile
from collections.abc import AsyncIterator

import fastapi
import gradio as gr
import uvicorn
from fastapi.responses import FileResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from tpgdiff_jax.app import page
from tpgdiff_jax.app.guard import Guard
from tpgdiff_jax.app.limits import Limits
from tpgdiff_jax.app.service import Service, shipped_samples
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.reporting.errors import UserError

_MEDIA = {
    **{".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"},
    **{".bmp": "image/bmp", ".tif": "image/tiff", ".tiff": "image/tiff"},
}


def create_app(service: Service, hosts: list[str] | None = None) -> fastapi.FastAPI:
    """Join the page with the addresses of visitors' files.

    Args:
      service: behind the page.
      hosts: names of this machine, under which alone a browser may ask: other sites' pages could
        otherwise be made to speak to this one.  None lets other machines in.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        yield
        service.store.clear()  # also where a signal ends the process

    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.get("/pictures/{token}")
    def picture(token: str, name: str | None = None) -> FileResponse:
        held = service.store.find(token)
        if held is None:
            raise fastapi.HTTPException(404)
        media = _MEDIA.get(held.path.suffix.lower(), "application/octet-stream")
        saved = held.name if name is not None or media == "application/octet-stream" else None
        headers = {"cache-control": "private, no-store"}
        return FileResponse(held.path, media_type=media, filename=saved, headers=headers)

    @app.get("/samples/{name}")
    def sample(name: str) -> FileResponse:
        if name not in service.samples:
            raise fastapi.HTTPException(404)
        return FileResponse(service.samples[name])

    gr.mount_gradio_app(
        app,
        page.build(service, is_local=hosts is not None),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=service.limits.file_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=page.THEME,
        css=page.CSS,
        head=page.HEAD,
    )
    app.add_middleware(Guard, limits=service.limits, is_full=service.is_full)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return app


def serve(restorer: Restorer, ear: socket.socket, limits: Limits | None = None) -> None:
    """Serve the page until the process is told to stop; then every visitor's file is removed.

    Args:
      restorer: the system.
      ear: of `listening`.
      limits: what the page takes.
    """
    host, port = ear.getsockname()[:2]
    with tempfile.TemporaryDirectory(prefix="tpgdiff_page_") as name:
        folder = pathlib.Path(name)
        use_folder(folder)
        service = Service(restorer, folder, limits, shipped_samples())
        local = ipaddress.ip_address(host).is_loopback
        app = create_app(service, ["127.0.0.1", "localhost", "[::1]"] if local else None)
        # Pages that are open hold a connection; nobody waits for them at the end.
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        shown = f"[{host}]" if ":" in host else host
        print(f"Open http://{shown}:{port}/  (Ctrl-C ends it)", flush=True)
        Server(config).run(sockets=[ear])


class Server(uvicorn.Server):
    """A web server that ends without a traceback for every page that is open."""

    def handle_exit(self, sig, frame) -> None:
        """End, as a signal asks."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().handle_exit(sig, frame)


def use_folder(folder: pathlib.Path) -> None:
    """Let Gradio lay uploads into a folder of ours, and tell nobody of us."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
      UserError: the host is not of this machine, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ear = socket.socket(family)
    try:
        if os.name == "posix":  # a port that was just given up is free; elsewhere it means more
            ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ear.bind((host, port))
        ear.listen()
    except OSError as error:
        ear.close()
        raise UserError(
            f"--host={host} --port={port}: this address cannot be used ({error.strerror}); choose "
            "another --port, or --host=127.0.0.1."
        ) from error
    return ear
