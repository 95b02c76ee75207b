"""What a visitor's presses lead to, without a browser."""

import asyncio
import threading
import types

import pytest

pytest.importorskip("gradio", reason="the extra app is not installed: pip install '.[app]'")

import gradio as gr

from tpgdiff_jax.app import page
from tpgdiff_jax.app import service as services
from tpgdiff_jax.app.work import Answer
from tpgdiff_jax.reporting.errors import UserError

ANSWER = Answer((40, 48), b"before", b"after", b"file", "a.restored.png", {})
ME = types.SimpleNamespace(session_hash="me")


@pytest.fixture
def handlers(service):
    """What the page calls."""
    return page.Handlers(service, (), ("noise",))


def press(handlers, picture, uncertain=False, of_views=False, again=False):
    """Press Restore; an iterator of what is shown."""
    return handlers.restore(ME, picture, "posterior", 2, 0, uncertain, of_views, again)


async def all_of(shown):
    return [each async for each in shown]


def test_a_second_press_shows_the_second_picture_alone(handlers, service, monkeypatch):
    go = threading.Event()

    def perform(*_):
        assert go.wait(60)
        return ANSWER

    monkeypatch.setattr(services, "perform", perform)

    async def visit():
        first = press(handlers, service.accept_sample("me", "example"))
        await anext(first)
        second = press(handlers, service.accept_sample("me", "example"))
        await anext(second)
        go.set()
        return await asyncio.gather(all_of(first), all_of(second))

    old, new = asyncio.run(visit())
    assert old == [(gr.skip(),) * 3]
    assert "Done." in new[-1][0]
    assert "comparison" in new[-1][1]


def test_a_picture_can_be_asked_for_while_another_one_is_made(service):
    with page.build(service, is_local=True) as blocks:
        found = {fn.fn.__name__: fn for fn in blocks.fns.values()}
    assert found["restore"].trigger_mode == found["degrade"].trigger_mode == "multiple"


def test_pictures_are_chosen_one_after_the_other_and_none_is_dropped(service):
    """The last press counts, also of an upload and an example."""
    with page.build(service, is_local=True) as blocks:
        found = {fn.fn.__name__: fn for fn in blocks.fns.values()}
    choosing = [found[name] for name in ("accept", "accept_sample")]
    assert {fn.trigger_mode for fn in choosing} == {"multiple"}
    assert {fn.concurrency_id for fn in choosing} == {"choosing"}
    assert {fn.concurrency_limit for fn in choosing} == {"default"}


def test_a_result_that_cannot_be_kept_is_one_sentence(handlers, service, monkeypatch):
    monkeypatch.setattr(services, "perform", lambda *_: ANSWER)
    picture = service.accept_sample("me", "example")

    def full(*_):
        raise UserError("before.png: the machine of this page cannot keep it (disk full).")

    monkeypatch.setattr(service.store, "put", full)
    *_, (status, result, _) = asyncio.run(all_of(press(handlers, picture)))
    assert "cannot keep it" in status
    assert result == ""


def test_boxes_that_are_ticked_ask_for_samples_views_and_passes(service, monkeypatch):
    monkeypatch.setitem(service.restorer.config.priors, "classification", "multi")
    handlers, asked = page.Handlers(service, (), ("noise",)), []

    def perform(restorer, request, watch):
        how = request.sampling
        asked.append((how.samples, how.ensemble, how.passes))
        return ANSWER

    monkeypatch.setattr(services, "perform", perform)
    for number in range(4):
        boxes = [number == box for box in (1, 2, 3)]
        asyncio.run(all_of(press(handlers, service.accept_sample("me", "example"), *boxes)))
    assert asked == [(1, 1, 1), (4, 1, 1), (1, 4, 1), (1, 1, 2)]


@pytest.mark.parametrize(("kind", "own", "shown"), [("multi", 2, True), ("single", 1, False)])
def test_the_box_for_further_passes_starts_as_the_weights_do(
    service, monkeypatch, kind, own, shown
):
    monkeypatch.setitem(service.restorer.config.priors, "classification", kind)
    monkeypatch.setitem(service.restorer.config.eval, "passes", own)
    with page.build(service, is_local=True) as blocks:
        boxes = [each for each in blocks.blocks.values() if isinstance(each, gr.Checkbox)]
    (again,) = [box for box in boxes if "Restore again" in box.label]
    assert (again.visible, again.value) == (shown, own > 1)
