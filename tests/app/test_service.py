"""The page without a browser: what comes in, what comes out, and what is left behind."""

import dataclasses
import io
import re
import threading

import numpy as np
import pytest
from app_files import PHOTO, encoded, finished, png_of
from PIL import Image

from tpgdiff_jax.app import jobs, views
from tpgdiff_jax.app import service as services
from tpgdiff_jax.app.limits import Limits
from tpgdiff_jax.app.service import recipe_of
from tpgdiff_jax.app.work import Answer
from tpgdiff_jax.data.degradations.mix import degrade
from tpgdiff_jax.data.degradations.registry import DEGRADATIONS
from tpgdiff_jax.inference import job as command
from tpgdiff_jax.inference import plan
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.reporting.errors import UserError

DEEP = np.arange(40 * 48, dtype=np.uint16).reshape(40, 48) * 30
ANIMATION = [Image.fromarray(np.roll(PHOTO, shift, 0)) for shift in (0, 8)]
GOOD = {
    "photo.png": encoded(Image.fromarray(PHOTO), "PNG"),
    "photo.jpg": encoded(Image.fromarray(PHOTO), "JPEG"),
    "press.jpg": encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
    "deep.png": encoded(Image.fromarray(DEEP), "PNG"),
    "deep.tif": encoded(Image.fromarray(DEEP), "TIFF"),
    "moving.gif": encoded(ANIMATION[0], "GIF", save_all=True, append_images=ANIMATION[1:]),
    "clear.webp": encoded(Image.fromarray(PHOTO).convert("RGBA"), "WEBP"),
    "wrong-name.png": encoded(Image.fromarray(PHOTO), "JPEG"),
    "dot.png": encoded(Image.fromarray(PHOTO[:1, :1]), "PNG"),
}
BAD = {
    "text.png": (b"This is no picture.\n" * 50, "text.png: not an image, whatever its name says."),
    "empty.png": (b"", "empty.png: empty file"),
    "cut.png": (GOOD["deep.png"][:-200], "cut.png: "),
    "cut.jpg": (GOOD["photo.jpg"][:400], "cut.jpg: "),
    "page.png": (b"<!doctype html><html></html>", "page.png: not a picture but a web page"),
    "archive.png": (b"PK\x03\x04" + bytes(100), "archive.png: not a picture but an archive"),
    "long.png": (png_of(50_000, 10), "50000x10 are 0.5 megapixels, and this page takes at most"),
    "longer.png": (png_of(2100, 10), "2100x10 is too long for this page"),
    "bomb.png": (png_of(6000, 6000), "6000x6000 are 36.0 megapixels"),
    "heavy.bin": (bytes(2**20 + 1), "heavy.bin: the file has 1 MiB, and this page takes at most 1"),
}


@pytest.mark.parametrize("name", GOOD)
def test_the_result_is_the_commands_to_the_last_bit(service, upload, tmp_path, name):
    """Also of 16 bit, CMYK, animations and wrong names; in the format that came, else PNG."""
    picture = service.accept("me", upload(name, GOOD[name]), name)
    sampling = Sampling(seed=3, steps=2, sampler="ode2")
    done = finished(service.submit("me", picture, sampling))
    assert done.state == jobs.DONE, done.sentence
    answer = done.answer

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(GOOD[name])
    suffix = answer.file_name[-4:].replace("webp", ".webp")
    tasks = plan.plan([str(tmp_path / "in")], tmp_path / "out", suffix)
    restorer = service.restorer
    command.run(restorer, tasks, tmp_path / "out", sampling=restorer.checked(sampling))
    assert answer.file == tasks[0].target.read_bytes()
    shown = np.asarray(Image.open(io.BytesIO(answer.after)))
    assert shown.shape[:2] == answer.size == picture.size
    kind = {"GIF": "PNG"}.get(Image.open(io.BytesIO(GOOD[name])).format)
    made = Image.open(io.BytesIO(answer.file)).format
    assert made == (kind or Image.open(io.BytesIO(GOOD[name])).format)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upload_is_answered_in_one_sentence_and_not_kept(service, upload, name):
    content, words = BAD[name]
    with pytest.raises(UserError) as caught:
        service.accept("me", upload(name, content), name)
    said = str(caught.value)
    assert words in said
    assert "\n" not in said
    assert said.endswith(".")
    assert not [path for path in service.store.uploads.parent.glob("**/*") if path.is_file()]


def test_a_name_is_only_a_name(service, upload):
    for name in ("../../etc/passwd", "..\\..\\boot.ini", "a/b/\0<i>.png", "", "....", "x" * 5000):
        picture = service.accept("me", upload("photo.png", GOOD["photo.png"]), name)
        held = service.store.find(picture.token)
        assert held.path.parent.name == picture.token
        assert not set("/\\<>\0") & set(held.name)


def test_no_file_beside_the_uploads_is_taken(service, upload, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(GOOD["photo.png"])
    inside = upload("photo.png", GOOD["photo.png"]).parent
    (inside / "link.png").symlink_to(secret)
    (inside.parent / "way").symlink_to(tmp_path)
    paths = [secret, inside / ".." / ".." / ".." / "secret.png", inside / "link.png"]
    paths += [inside.parent / "way" / "secret.png", inside, inside / "none.png"]
    for path in paths:
        with pytest.raises(UserError, match="no upload of this page"):
            service.accept("me", path, "photo.png")
    assert secret.read_bytes() == GOOD["photo.png"]


def test_an_example_is_restored_and_an_unknown_one_named(service):
    picture = service.accept_sample("me", "example")
    assert finished(service.submit("me", picture, Sampling())).state == jobs.DONE
    with pytest.raises(UserError, match=r"no example '\.\./x'; there are example"):
        service.accept_sample("me", "../x")


def test_another_visitors_picture_is_not_restored(service):
    picture = service.accept_sample("me", "example")
    with pytest.raises(UserError, match="removed meanwhile"):
        service.submit("you", picture, Sampling())


def test_a_setting_that_does_not_fit_is_one_sentence(service):
    picture = service.accept_sample("me", "example")
    with pytest.raises(UserError, match="steps=0 must be"):
        service.submit("me", picture, Sampling(steps=0))


def test_a_degraded_picture_is_compared_with_the_clean_one(service):
    recipe = recipe_of({"noise": 3.0, "haze": 0.0, "jpeg": 2.0}, seed=5)
    assert recipe.steps == (("noise", 3.0), ("jpeg", 2.0))
    picture = service.accept_sample("me", "example")
    answer = finished(service.submit("me", picture, Sampling(samples=2), recipe)).answer
    before = np.asarray(Image.open(io.BytesIO(answer.before)))
    np.testing.assert_array_equal(before, degrade(PHOTO, recipe))
    after = np.asarray(Image.open(io.BytesIO(answer.after))).astype(int)
    error = np.square(before[4:-4, 4:-4].astype(float) - PHOTO[4:-4, 4:-4]).mean()
    assert answer.scores["input"][0] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    assert answer.scores.keys() == {"input", "restored"}
    difference = np.asarray(Image.open(io.BytesIO(answer.difference)))
    np.testing.assert_array_equal(difference, np.clip(4 * np.abs(after - PHOTO), 0, 255))
    assert Image.open(io.BytesIO(answer.deviation)).mode == "L"
    assert answer.degradations.keys() == {"noise", "rain"}


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_every_degradation_can_be_asked_for(name):
    degraded = degrade(PHOTO, recipe_of({name: 4.0}, seed=1))
    assert (degraded != PHOTO).any()


def test_a_picture_may_be_too_large_to_be_degraded_first(restorer, tmp_path, upload):
    limits = Limits(clean_pixels=40 * 48 - 1)
    service = services.Service(restorer, tmp_path / "page", limits)
    picture = service.accept("me", upload("photo.png", GOOD["photo.png"]), "photo.png")
    with pytest.raises(UserError, match=r"48x40 are 0\.0 megapixels, and this page degrades at mo"):
        service.submit("me", picture, Sampling(), recipe_of({"noise": 1}, 0))
    assert finished(service.submit("me", picture, Sampling())).state == jobs.DONE


def test_a_phones_picture_is_taken_and_told_to_take_long(restorer, tmp_path, upload):
    service = services.Service(restorer, tmp_path / "page")
    large, small = (
        service.accept("me", upload(name, png_of(*size)), name)
        for name, size in (("phone.png", (4032, 3024)), ("small.png", (64, 64)))
    )
    assert (large.size, large.windows, small.windows) == ((3024, 4032), 30, 1)
    shown = [views.chosen(p.preview, p.name, p.size, p.windows) for p in (large, small)]
    assert ["restored in 30 windows" in text for text in shown] == [True, False]


def test_a_recipe_of_nothing_is_refused():
    with pytest.raises(UserError, match="Every severity is 0"):
        recipe_of({"noise": 0.0}, seed=0)


def test_a_picture_too_small_for_scores_has_none(service, upload):
    picture = service.accept("me", upload("dot.png", GOOD["dot.png"]), "dot.png")
    answer = finished(
        service.submit("me", picture, Sampling(), recipe_of({"noise": 2.0}, 0))
    ).answer
    assert answer.scores == {}
    assert answer.size == (1, 1)


def test_a_page_that_is_closed_leaves_nothing(service, upload):
    mine = service.accept("me", upload("photo.png", GOOD["photo.png"]), "photo.png")
    yours = service.accept_sample("you", "example")
    service.close("me")
    assert service.store.find(mine.token) is None
    assert service.store.find(mine.preview) is None
    assert service.store.find(yours.token).path.is_file()
    with pytest.raises(UserError, match="removed meanwhile"):
        service.submit("me", mine, Sampling())
    service.store.clear()
    assert not [path for path in service.store.uploads.parent.glob("**/*") if path.is_file()]


ANSWER = Answer((40, 48), b"before", b"after", b"file", "a.restored.png", {}, deviation=b"map")


def test_the_words_about_a_picture_name_no_chance_that_differs_from_the_bars():
    degradations = {"rain": 0.998, "camera_noise": 0.09, "jpeg": 0.08}
    answer = dataclasses.replace(ANSWER, degradations=degradations, verdict=("rain", 0.84))
    shown = views.findings(answer)
    assert "<caption>Predicted degradation: rain</caption>" in shown
    assert set(re.findall(r"\d+%", shown)) == {"100%", "9%", "8%"}


def test_nothing_is_said_of_nobody_before_nor_of_no_time_left():
    job = jobs.Job("me", "a.png", lambda watch: None)
    assert "1 picture is before yours" in views.progress(job, 1)
    assert "Waiting" not in views.progress(job, 0)
    job.state = jobs.RUNNING
    said = []
    for done in range(3):
        job.watch(done, 2)
        said.append(" left" in views.progress(job, 0))
    assert said == [False, True, False]


def test_the_page_tells_that_a_picture_is_restored_again(service, monkeypatch):
    seen = []

    def restored_twice(images, watch, **options):
        job = service._jobs._running
        for steps in ((0, 2), (1, 2), (2, 4), (3, 4), (4, 4)):
            watch(*steps)
            seen.append(views.progress(job, 0))
        yield dataclasses.replace(next(real(images, **options)), passes=2)

    real = service.restorer.iterate
    monkeypatch.setattr(service.restorer, "iterate", restored_twice)
    picture = service.accept_sample("me", "example")
    done = finished(service.submit("me", picture, Sampling()))
    assert done.state == jobs.DONE, done.sentence
    assert ["restoring once more" in said for said in seen] == [False, False, True, True, True]
    ends = [re.findall(r" max='(\d)' value='(\d)'", said) for said in seen]
    assert ends == [[], [("2", "1")], [], [("2", "1")], [("2", "2")]]  # each pass has its own bar
    assert "Step 1 of 2" in seen[3]
    assert "The first picture of a size" not in "".join(seen[1:])
    shown = [
        views.result(each, dict.fromkeys(services._FILES, "")) for each in (done.answer, ANSWER)
    ]
    assert ["Restored 2 times in a row" in text for text in shown] == [True, False]


@pytest.mark.parametrize(
    ("kind", "own", "most"), [("multi", 1, 2), ("multi", 3, 3), ("single", 1, 1)]
)
def test_visitors_may_ask_for_further_passes_where_the_weights_allow_them(
    service, monkeypatch, kind, own, most
):
    config = service.restorer.config.copy_and_resolve_references().unlock()
    config.priors.classification, config.eval.passes = kind, own
    monkeypatch.setattr(service.restorer, "config", config)
    assert service.most_passes() == most


def test_a_visitor_holds_one_picture_and_one_result(service, upload, monkeypatch):
    monkeypatch.setattr(services, "perform", lambda *_: ANSWER)
    yours = service.accept_sample("you", "example")
    former = set()
    for _ in range(3):
        mine = service.accept("me", upload("photo.png", GOOD["photo.png"]), "photo.png")
        job = finished(service.submit("me", mine, Sampling()))
        tokens = service.keep_result("me", job.answer)
        assert tokens.keys() == {"before", "after", "file", "deviation"}
        now = {mine.token, mine.preview, *tokens.values()}
        assert all(service.store.find(token).path.is_file() for token in now)
        assert not any(map(service.store.find, former))
        former = now
    assert service.store.find(tokens["file"]).name == "a.restored.png"
    assert service.store.find(yours.token).path.is_file()
    kept = [path for path in service.store.uploads.parent.glob("kept/*/*") if path.is_file()]
    assert len(kept) == 2 + 6


def test_a_picture_in_work_stays_until_it_is_done(service, monkeypatch):
    began, go = threading.Event(), threading.Event()

    def perform(*_):
        began.set()
        assert go.wait(60)
        return ANSWER

    monkeypatch.setattr(services, "perform", perform)
    first = service.accept_sample("me", "example")
    job = service.submit("me", first, Sampling())
    assert began.wait(60)
    service.accept_sample("me", "example")
    assert service.store.find(first.token).path.is_file()
    service.cancel("me")
    service.accept_sample("me", "example")
    assert service.store.find(first.token).path.is_file()
    go.set()
    finished(job)
    finished(service.submit("you", service.accept_sample("you", "example"), Sampling()))
    service.accept_sample("me", "example")
    assert service.store.find(first.token) is None


def test_a_full_disk_leaves_nothing_of_a_picture_or_result(service, monkeypatch):
    put, before = service.store.put, service.store.held_bytes()

    def full(session, data, name, *kind):
        if name in ("preview.png", "after.png"):
            raise UserError(f"{name}: the machine of this page cannot keep it")
        return put(session, data, name, *kind)

    monkeypatch.setattr(service.store, "put", full)
    for keep in (
        lambda: service.accept_sample("me", "example"),
        lambda: service.keep_result("me", ANSWER),
    ):
        with pytest.raises(UserError, match="cannot keep it"):
            keep()
    assert service.store.held_bytes() == before


def test_a_page_that_holds_too_much_takes_neither_samples_nor_requests(service, monkeypatch):
    picture = service.accept_sample("me", "example")
    held = service.store.held_bytes()
    monkeypatch.setattr(service, "limits", dataclasses.replace(service.limits, held_bytes=held - 1))
    for ask in (
        lambda: service.accept_sample("you", "example"),
        lambda: service.submit("me", picture, Sampling()),
    ):
        with pytest.raises(UserError, match="holds too many pictures already; try again later"):
            ask()
    assert service.store.held_bytes() == held
