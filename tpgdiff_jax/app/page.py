"""The page itself: Gradio's components, and what happens when one is used.

Only this file, `server.py` and `guard.py` need the extra `app`.
"""

import asyncio
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from tpgdiff_jax.app import jobs, views
from tpgdiff_jax.app.jobs import Job
from tpgdiff_jax.app.service import Picture, Service, recipe_of
from tpgdiff_jax.app.work import Answer
from tpgdiff_jax.data.degradations.mix import MAX_SEVERITY, Recipe
from tpgdiff_jax.data.degradations.registry import DEGRADATIONS, STAGES
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.diffusion.samplers import SAMPLERS
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.reporting.errors import UserError

_HERE = pathlib.Path(__file__).parent
CSS = (_HERE / "page.css").read_text()
HEAD = f"<script>\n{(_HERE / 'page.js').read_text()}</script>"
# The reader's own fonts: others would be fetched.
THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    # Dark enough for white words.
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
)
_POLL_SECONDS = 0.2
_UNCERTAINTY_SAMPLES = 4
_VIEWS = 4
_MOST_SEED = 2**31 - 1
_CLICK_SAMPLE = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-sample]");
  if (button) trigger("click", { name: button.dataset.sample });
});
"""
_ANNOUNCE = """
element.setAttribute("role", "status");
element.setAttribute("aria-live", "polite");
"""
# On a phone the result lies below what asked for it.
_SHOW = """
watch("value", () => {
  const isNarrow = window.matchMedia("(max-width: 640px)").matches;
  if (isNarrow && element.querySelector(".comparison")) element.scrollIntoView();
});
"""


@dataclasses.dataclass
class Settings:
    """The components that say how to restore."""

    sampler: gr.Dropdown
    steps: gr.Slider
    seed: gr.Number
    uncertainty: gr.Checkbox
    ensemble: gr.Checkbox
    again: gr.Checkbox
    strengths: dict[str, gr.Slider]

    def components(self) -> list[Any]:
        """Return them in the order that `Handlers` takes their values in."""
        boxes = [self.uncertainty, self.ensemble, self.again]
        return [self.sampler, self.steps, self.seed, *boxes, *self.strengths.values()]


def build(service: Service, is_local: bool) -> gr.Blocks:
    """Lay out the page and say what its parts do.

    Args:
      service: what answers.
      is_local: whether visitors sit at this machine.
    """
    with gr.Blocks(
        title="Restore a photograph", analytics_enabled=False, fill_width=True
    ) as blocks:
        gr.HTML(views.title(is_local, service.limits.seconds), elem_id="title")
        picture = gr.State(None)
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                upload = gr.File(
                    label="Drop, paste or choose a picture", elem_id="upload", height=150
                )
                samples = gr.HTML(
                    views.samples(service.samples),
                    js_on_load=_CLICK_SAMPLE,
                    visible=bool(service.samples),
                )
                chosen = gr.HTML(elem_id="chosen")
                with gr.Tabs(elem_id="ways"):
                    with gr.Tab("Restore"):
                        restore = gr.Button("Restore", variant="primary", elem_id="restore")
                    with gr.Tab("Degrade and restore"):
                        severities = _severities()
                        recipe_seed = _seed("Seed of the degradation")
                        degrade = gr.Button(
                            "Degrade and restore", variant="primary", elem_id="degrade"
                        )
                cancel = gr.Button("Cancel", interactive=False, elem_id="cancel")
                status = gr.HTML(elem_id="status", js_on_load=_ANNOUNCE)
                settings = _settings(service)
            with gr.Column(scale=7, min_width=300):
                result = gr.HTML(elem_id="result", js_on_load=_SHOW)
        handlers = Handlers(service, tuple(settings.strengths), tuple(severities))
        shows = [picture, chosen, status, result]
        options: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        # Gradio would drop what is asked for while the same is done.
        options |= {"trigger_mode": "multiple"}
        choosing = options | {"concurrency_id": "choosing"}  # in turn: the last choice counts
        # As the browser says it: Gradio would lose the name.
        upload.upload(handlers.accept, upload, [upload, *shows], preprocess=False, **choosing)
        samples.click(handlers.accept_sample, None, shows, **choosing)
        # A picture that is asked for while another one is made takes its place.
        options |= {"concurrency_limit": None}
        asked = [picture, *settings.components()]
        outputs = [status, result, cancel]
        restore.click(handlers.restore, asked, outputs, **options)
        recipe = [recipe_seed, *severities.values()]
        degrade.click(handlers.degrade, [*asked, *recipe], outputs, **options)
        cancel.click(handlers.cancel, None, None, **options)
        blocks.unload(handlers.close)
    for block in blocks.blocks.values():
        # Gradio would fetch an address, and copy what a link leads to; `Store.take` looks instead.
        block.async_move_resource_to_block_cache = _left_alone
    return blocks


async def _left_alone(path: str | None) -> str | None:
    return path


def _settings(service: Service) -> Settings:
    own = service.restorer.config.eval
    most = max(IRSDE(**service.restorer.config.diffusion).steps, own.steps)
    with gr.Accordion("How to restore", open=False, elem_id="settings"):
        sampler = gr.Dropdown(list(SAMPLERS), value=own.sampler, label="Sampler")
        steps = gr.Slider(
            1, most, own.steps, step=1, label="Steps (network calls)", elem_id="steps"
        )
        seed = _seed("Seed of the sampling noise")
        uncertainty = gr.Checkbox(
            False, label=f"Map of the uncertainty ({_UNCERTAINTY_SAMPLES} samples)"
        )
        ensemble = gr.Checkbox(
            False, label=f"Mean of {_VIEWS} mirrored views ({_VIEWS} times the time)"
        )
        again = gr.Checkbox(
            own.passes > 1,
            label="Restore again what still looks degraded",
            visible=service.most_passes() > 1,
        )
        strengths = {
            name: gr.Slider(0, 3, 1, step=0.05, label=f"Strength of the {name} prior")
            for name in service.guidable()
        }
    return Settings(sampler, steps, seed, uncertainty, ensemble, again, strengths)


def _seed(label: str) -> gr.Number:
    return gr.Number(0, label=label, precision=0, minimum=0, maximum=_MOST_SEED)


def _severities() -> dict[str, gr.Slider]:
    """Return a slider for each degradation, in the order in which light meets them."""
    found = {}
    for stage in STAGES:
        names = [name for name, entry in DEGRADATIONS.items() if entry.stage == stage]
        with gr.Accordion(f"{stage}: {', '.join(names)}".replace("_", " "), open=stage == "sensor"):
            for name in names:
                label = f"{name.replace('_', ' ')} (severity)"
                start = 3 if name == "noise" else 0
                found[name] = gr.Slider(0, MAX_SEVERITY, start, step=0.25, label=label)
    return found


class Handlers:
    """What the components call; `request.session_hash` tells whose page it is."""

    def __init__(self, service: Service, branches: Sequence[str], degradations: Sequence[str]):
        """Take what answers, and the names of the sliders in their order."""
        self._service = service
        self._branches, self._degradations = branches, degradations
        config = service.restorer.config
        self._own_steps = IRSDE(**config.diffusion).steps
        self._most_passes = service.most_passes()

    def accept(self, upload: Mapping[str, Any] | None, request: gr.Request) -> tuple:
        """Take what was uploaded, a `FileData` of Gradio's; the field is emptied for the next."""
        if upload is None:
            return tuple(gr.skip() for _ in range(5))
        path, name = str(upload.get("path")), str(upload.get("orig_name"))
        shown = self._chosen(lambda: self._service.accept(request.session_hash, path, name))
        return (None, *shown)

    def accept_sample(self, event: gr.EventData, request: gr.Request) -> tuple:
        """Take an example."""
        name = str(event.name)
        return self._chosen(lambda: self._service.accept_sample(request.session_hash, name))

    def _chosen(self, take: Callable[[], Picture]) -> tuple:
        try:
            picture = take()
        except UserError as error:
            return None, "", views.sentence(str(error), "error"), ""
        shown = (picture.preview, picture.name, picture.size, picture.windows)
        return picture, views.chosen(*shown), "", ""

    async def restore(self, request: gr.Request, picture, *values) -> AsyncIterator[tuple]:
        """Restore the picture, telling how far it is."""
        async for shown in self._run(request.session_hash, picture, values, lambda: None):
            yield shown

    async def degrade(self, request: gr.Request, picture, *values) -> AsyncIterator[tuple]:
        """Degrade the picture by the sliders, then restore it."""
        split = len(values) - len(self._degradations) - 1
        seed, severities = values[split], values[split + 1 :]

        def recipe() -> Recipe:
            named = dict(zip(self._degradations, severities, strict=True))
            return recipe_of(named, int(seed or 0))

        async for shown in self._run(request.session_hash, picture, values[:split], recipe):
            yield shown

    def cancel(self, request: gr.Request) -> None:
        """Cancel the visitor's request."""
        self._service.cancel(request.session_hash)

    def close(self, request: gr.Request) -> None:
        """Forget a visitor whose page was closed."""
        self._service.close(request.session_hash)

    async def _run(
        self,
        session: str,
        picture: Picture | None,
        values: Sequence[Any],
        recipe: Callable[[], Recipe | None],
    ) -> AsyncIterator[tuple]:
        try:
            if picture is None:
                raise UserError("There is no picture yet; choose one first.")
            job = self._service.submit(session, picture, self._sampling(values), recipe())
        except UserError as error:
            yield views.sentence(str(error), "error"), gr.skip(), gr.skip()
            return
        said = None
        while self._service.is_newest(job) and not job.is_over:
            now = views.progress(job, self._service.ahead(job))
            if now != said:
                yield now, "" if said is None else gr.skip(), gr.Button(interactive=True)
                said = now
            await asyncio.sleep(_POLL_SECONDS)
        if self._service.is_newest(job):
            yield (*self._outcome(session, job), gr.Button(interactive=False))
        else:  # the page shows another one; what is said last, Gradio would say once more
            yield gr.skip(), gr.skip(), gr.skip()

    def _sampling(self, values: Sequence[Any]) -> Sampling:
        sampler, steps, seed, uncertain, of_views, again, *strengths = values
        if sampler in SAMPLERS and SAMPLERS[sampler].own_steps_only:
            steps = self._own_steps
        return Sampling(
            sampler=sampler,
            steps=int(steps),
            seed=int(seed or 0),
            samples=_UNCERTAINTY_SAMPLES if uncertain else 1,
            ensemble=_VIEWS if of_views else 1,
            passes=self._most_passes if again else 1,
            guidance=dict(zip(self._branches, strengths, strict=True)),
        )

    def _outcome(self, session: str, job: Job) -> tuple[str, str]:
        if job.state == jobs.CANCELLED:
            return views.sentence("Cancelled."), ""
        if job.state == jobs.FAILED:
            return views.sentence(job.sentence, "error"), ""
        answer: Answer = job.answer
        job.answer = None
        try:
            tokens = self._service.keep_result(session, answer)
        except UserError as error:
            return views.sentence(str(error), "error"), ""
        return views.sentence("Done."), views.result(answer, tokens)
