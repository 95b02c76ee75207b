"""The page in a real browser, with the weights that ship and the command to compare with.

Needs the extras app and browser, chromium and chromedriver; .ci/run installs them.
"""

# ruff: noqa: E402 (what needs an extra is imported where it is there)

import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the extra app is not installed: pip install '.[app]'")
pytest.importorskip(
    "selenium", reason="the extra browser is not installed: pip install '.[browser]'"
)
DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
if not (DRIVER and BROWSER):
    pytest.skip("there is no chromium with chromedriver here", allow_module_level=True)

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

ROOT = pathlib.Path(__file__).parents[2]
PHOTO = ROOT / "configs" / "quickstart_photos" / "eval" / "chelsea.jpg"
# arguments: a file's content, its type, "paste" or "drop".
_BRING = """
const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
const files = new DataTransfer();
files.items.add(new File([bytes], "image.jpg", { type: arguments[1] }));
const options = { bubbles: true, cancelable: true };
const event = arguments[2] === "paste"
  ? new ClipboardEvent("paste", { clipboardData: files, ...options })
  : new DragEvent("drop", { dataTransfer: files, ...options });
document.querySelector("#title").dispatchEvent(event);
return event.defaultPrevented;
"""
PATIENCE = 120  # seconds: the first picture of a size waits for its program


class Page:
    """A browser's window on the page."""

    def __init__(self, url: str, width: int = 1280, dark: bool = False):
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
            options.add_argument(f"--{word}")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options, Service(DRIVER))
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(url)
        self.find("#restore")

    def find(self, selector: str, seconds: float = PATIENCE):
        """Wait for an element."""
        wait = WebDriverWait(self.driver, seconds)
        return wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, selector))[0]

    def says(self, words: str, seconds: float = PATIENCE) -> str:
        """Wait until the status says some words."""
        status = self.find("#status")
        WebDriverWait(self.driver, seconds).until(lambda _: words in status.text, words)
        return status.text

    def choose(self, path: pathlib.Path) -> None:
        """Upload a file."""
        self.find("#upload input[type=file]").send_keys(str(path))

    def click(self, selector: str) -> None:
        """Press what a visitor would press."""
        element = self.find(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        WebDriverWait(self.driver, PATIENCE).until(lambda _: element.is_enabled())
        element.click()

    def set_steps(self, steps: int) -> None:
        """Open the settings and type a number of steps."""
        self.click("#settings button")
        field = self.find("#steps input[type=number]")
        WebDriverWait(self.driver, PATIENCE).until(lambda _: field.is_displayed())
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(f"{steps}", Keys.TAB)

    def run(self, script: str, *args):
        """Run a script; return what it returns."""
        return self.driver.execute_script(script, *args)

    def requests(self) -> list[str]:
        """Return what the browser asked for."""
        rows = [json.loads(row["message"])["message"] for row in self.driver.get_log("performance")]
        sent = [row for row in rows if row["method"] == "Network.requestWillBeSent"]
        return [row["params"]["request"]["url"] for row in sent]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder for the server's files and the compiled programs that the command shares."""
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def environment(home):
    """What the programs are started with."""
    (home / "tmp").mkdir()
    own = {"XDG_CACHE_HOME": str(home / "cache"), "TMPDIR": str(home / "tmp")}
    plain = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    return plain | own | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def url(environment):
    """Where the page is, in a process of its own."""
    command = [sys.executable, "-m", "tpgdiff_jax.main", "--mode=serve", "--port=0"]
    pipe = {"stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipe) as process:
        line = process.stdout.readline()
        assert line.startswith("Open http://127.0.0.1:"), line
        yield line.split()[1]
        process.terminate()


@pytest.fixture
def open_page(url):
    """`open_page(width=1280, dark=False)` -> a `Page`, closed after the test."""
    with contextlib.ExitStack() as stack:

        def opened(**options) -> Page:
            page = Page(url, **options)
            stack.callback(page.driver.quit)
            return page

        yield opened


@pytest.fixture
def photo(tmp_path):
    """A small degraded photo, JPEG."""
    path = tmp_path / "my photo.jpg"
    image = np.asarray(Image.open(PHOTO))[100:200, 150:280]
    noise = np.random.default_rng(0).normal(0, 20, image.shape)
    Image.fromarray(np.clip(image + noise, 0, 255).astype(np.uint8)).save(path, quality=95)
    return path


def test_a_photo_is_restored_compared_and_saved_as_by_the_command(
    open_page, url, photo, environment, tmp_path
):
    page = open_page()
    page.choose(photo)
    assert "my photo.jpg, 130x100 pixels" in page.find(".chosen").text
    page.click("#restore")
    page.says("Done.")
    assert "Predicted degradation: " in page.find("#result").text

    divider = page.find(".comparison input[type=range]")
    cut = "return document.querySelector('.comparison').style.getPropertyValue('--cut').trim()"
    assert page.run(cut) == "50%"
    divider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.run(cut) == "51%"
    drag = webdriver.ActionChains(page.driver).move_to_element(divider).click_and_hold()
    drag.move_by_offset(-divider.size["width"] // 4, 0).release().perform()
    assert 20 < float(page.run(cut).rstrip("%")) < 30

    link = page.find("a.download")
    assert link.get_attribute("download") == "my photo.restored.jpg"
    with urllib.request.urlopen(link.get_attribute("href")) as answer:
        assert "my%20photo.restored.jpg" in answer.headers["content-disposition"]
        saved = answer.read()
    command = [sys.executable, "-m", "tpgdiff_jax.main", "--mode=restore", "--format=.jpg"]
    command += [f"--input={photo}", f"--output={tmp_path / 'out'}"]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert saved == (tmp_path / "out" / "my photo.jpg").read_bytes()
    asked = [each for each in page.requests() if not each.startswith(("data:", "blob:"))]
    assert len(asked) > 10
    assert [each for each in asked if not each.startswith((url, "chrome:", "about:"))] == []
    errors = [row for row in page.driver.get_log("browser") if row["level"] == "SEVERE"]
    assert errors == []


def test_a_text_file_is_answered_in_a_sentence_and_the_page_goes_on(open_page, photo, tmp_path):
    page = open_page()
    page.click("#restore")
    page.says("There is no picture yet")
    text = tmp_path / "text.png"
    text.write_text("This is no picture.")
    page.choose(text)
    page.says("text.png: not an image, whatever its name says.")
    page.choose(photo)
    page.find(".chosen")
    page.click("#restore")
    page.says("Done.")


@pytest.mark.parametrize("way", ["paste", "drop"])
@pytest.mark.parametrize("kind", ["image/jpeg", ""])
def test_a_picture_that_is_pasted_or_dropped_anywhere_is_taken(open_page, photo, kind, way):
    page = open_page()
    assert page.run(_BRING, base64.b64encode(photo.read_bytes()).decode(), kind, way)
    assert "image.jpg, 130x100 pixels" in page.find(".chosen").text


def test_of_two_quick_presses_on_examples_the_last_counts(open_page):
    page = open_page()
    names = page.run(
        """const found = [...document.querySelectorAll("button[data-sample]")];
        found.forEach((button, number) => setTimeout(() => button.click(), 20 * number));
        return found.map((button) => button.dataset.sample);"""
    )
    chosen = page.find("#chosen")
    WebDriverWait(page.driver, PATIENCE).until(lambda _: f"{names[-1]}." in chosen.text)


def test_two_visitors_one_waits_and_the_other_cancels(open_page, photo):
    first, second = open_page(), open_page()
    for page in (first, second):
        page.choose(photo)
        page.find(".chosen")
    first.set_steps(100)
    first.click("#restore")
    first.says("of 100")
    second.click("#restore")
    second.says("Waiting: 1 picture is before yours.")
    first.click("#cancel")
    first.says("Cancelled.")
    second.says("Done.")


def test_a_phone_shows_everything_and_a_degraded_photo_its_scores(open_page):
    page = open_page(width=390, dark=True)
    page.click("button[data-sample=chelsea]")
    page.find(".chosen")
    tabs = page.driver.find_elements(By.CSS_SELECTOR, "button[role=tab]")
    next(tab for tab in tabs if tab.text == "Degrade and restore").click()
    page.click("#degrade")
    page.says("Done.")
    assert "PSNR" in page.find("table.scores").text
    assert page.find("#result figure.further img").get_attribute("naturalWidth") == "451"
    assert page.run("return document.documentElement.scrollWidth") == 390
    colour = page.run("return getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in colour.strip("rgba()").split(",")[:3]) < 60


def test_every_control_has_a_name_for_screen_readers(open_page):
    page = open_page()
    page.click("#settings button")
    page.driver.execute_cdp_cmd("Accessibility.enable", {})
    roles = ("button", "slider", "spinbutton", "checkbox", "textbox", "combobox", "tab", "listbox")

    def controls(driver):
        tree = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        found = [n for n in tree if n.get("role", {}).get("value") in roles and not n["ignored"]]
        return len(found) > 12 and found  # the settings take a moment to open

    found = WebDriverWait(page.driver, PATIENCE).until(controls)
    nameless = [n["role"]["value"] for n in found if not n.get("name", {}).get("value")]
    assert nameless == []


def test_a_page_that_is_closed_leaves_no_file(open_page, home, photo):
    page = open_page()
    page.choose(photo)
    page.find(".chosen")
    kept = list((home / "tmp").glob("tpgdiff_page_*/kept/*/my photo.jpg"))
    assert kept
    page.driver.get("about:blank")
    end = time.monotonic() + 60
    while any(path.exists() for path in kept):
        assert time.monotonic() < end
        time.sleep(0.2)
