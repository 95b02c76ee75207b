"""What the page costs: until it is painted, a first picture, a hundred pictures."""

import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from PIL import Image

from launch.bench.sample import picture
from tpgdiff_jax.app.jobs import DONE
from tpgdiff_jax.app.service import Service
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.reporting.errors import UserError

REQUESTS = 100
_PAINTED = """
const painted = performance.getEntriesByName("first-contentful-paint")[0];
const ready = document.querySelector("#restore");
return painted && ready ? [painted.startTime, performance.now()] : null;
"""


def bench_requests(restorer: Restorer, size: int, requests: int = REQUESTS) -> list[dict[str, Any]]:
    """Measure requests one after the other, each of a visitor of its own who then leaves.

    Args:
      restorer: the system; its own sampler and steps are used.
      size: side of the picture, pixels.
      requests: how many, at least 2; the first may compile.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name) / "photo.png"
        Image.fromarray(picture((size, size))).save(path)
        service = Service(restorer, pathlib.Path(name) / "page", samples={"photo": path})
        seconds = []
        for number in range(requests):
            started = time.perf_counter()
            _visit(service, f"visitor {number}", seed=number)
            seconds.append(time.perf_counter() - started)
            if number in (0, requests // 10, requests - 1):
                rows.append({"what": f"after request {number + 1}", "resident_bytes": _resident()})
    what = f"request, {size}x{size}"
    first = {"what": f"first {what}, compiled", "seconds": seconds[0]}
    return [first, {"what": what, "seconds": statistics.median(seconds[1:])}, *rows]


def _visit(service: Service, session: str, seed: int) -> None:
    """Choose, restore, keep what a browser would show, leave."""
    chosen = service.accept_sample(session, "photo")
    job = service.submit(session, chosen, Sampling(seed=seed))
    while not job.is_over:
        time.sleep(0.002)
    if job.state != DONE:
        raise UserError(job.sentence)
    service.keep_result(session, job.answer)
    service.close(session)


def bench_paint(repeats: int) -> list[dict[str, Any]]:
    """Measure the start of --mode=serve, and the page in chromium.

    Args:
      repeats: how often the page is opened; the median counts.

    Raises:
      UserError: selenium, chromium or chromedriver is missing.
    """
    try:
        from selenium import webdriver
    except ModuleNotFoundError as error:
        raise UserError("The page needs a browser: pip install 'tpgdiff_jax[browser]'.") from error
    driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and browser):
        raise UserError("The page needs chromium and chromedriver; install them.")
    started = time.perf_counter()
    command = [sys.executable, "-m", "tpgdiff_jax.main", "--mode=serve", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().split()[1]
        serving = time.perf_counter() - started
        found = [_paint(webdriver, driver, browser, url) for _ in range(repeats)]
        process.terminate()
    painted, ready = (statistics.median(column) / 1000 for column in zip(*found, strict=True))
    return [
        {"what": "start of the program, weights loaded", "seconds": serving},
        {"what": "first paint", "seconds": painted},
        {"what": "page ready", "seconds": ready},
    ]


def _paint(webdriver: Any, driver: str, browser: str, url: str) -> tuple[float, float]:
    """Open the page in a new browser; return (first paint, buttons there) in milliseconds."""
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{word}")
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as window:
        window.get(url)
        while (times := window.execute_script(_PAINTED)) is None:
            time.sleep(0.01)
        return tuple(times)


def _resident() -> int:
    """Return the memory this process holds, bytes."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024
