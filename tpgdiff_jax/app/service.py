"""What the page can do: take pictures, restore, tell how far it is, forget."""

import dataclasses
import functools
import os
import pathlib
import threading
import time
from collections.abc import Mapping

from absl import logging

from tpgdiff_jax.app.jobs import Job, Jobs
from tpgdiff_jax.app.limits import Limits
from tpgdiff_jax.app.store import PICTURE, RESULT, Store
from tpgdiff_jax.app.work import Answer, Request, perform
from tpgdiff_jax.data.degradations.mix import Recipe, in_order
from tpgdiff_jax.data.images import encode_png
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.data.pictures.picture import to_8_bit
from tpgdiff_jax.inference.input_images import as_input
from tpgdiff_jax.inference.passes import hindrance
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.priors import BRANCHES
from tpgdiff_jax.reporting.errors import UserError

_SWEEP_SECONDS = 60
_FILES = ("before", "after", "file", "deviation", "difference")  # of an `Answer`


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that a visitor brought.

    Attributes:
      token: of the file as it came.
      preview: token of an 8-bit PNG of it, upright, which every browser shows.
      name: as the visitor calls it.
      size: (height, width).
      windows: in how many it is restored, one after the other; 1 is the whole.
    """

    token: str
    preview: str
    name: str
    size: tuple[int, int]
    windows: int = 1


class Service:
    """Everything behind the page; safe for threads.

    Attributes:
      restorer: the system.
      limits: what is taken.
      store: visitors' files.
      samples: name -> file of the pictures offered.
    """

    def __init__(
        self,
        restorer: Restorer,
        folder: pathlib.Path,
        limits: Limits | None = None,
        samples: Mapping[str, pathlib.Path] | None = None,
    ):
        """Start.

        Args:
          restorer: the system.
          folder: of this process alone; uploads and results lie there.
          limits: what is taken.
          samples: pictures offered.
        """
        self.restorer, self.limits = restorer, limits or Limits()
        self.samples = dict(samples or {})
        self.store = Store(folder, self.limits.seconds, 2 * self.limits.stalled_seconds)
        self._jobs = Jobs(self.limits.waiting)
        threading.Thread(target=self._sweep, daemon=True, name="sweeping").start()

    def accept(self, session: str, path: str | os.PathLike, name: str) -> Picture:
        """Take an uploaded picture; the visitor's former one is forgotten.

        Args:
          session: whose it is.
          path: where the web server laid it.
          name: as the visitor calls it.

        Raises:
          UserError: it is none, or too large; one sentence.
        """
        token = self.store.take(session, path, name)
        return self._shown(session, token)

    def accept_sample(self, session: str, name: str) -> Picture:
        """Take one of the pictures offered; arguments as of `accept`."""
        self._check_space()
        if name not in self.samples:
            raise UserError(f"There is no example {name!r}; there are {', '.join(self.samples)}.")
        path = self.samples[name]
        return self._shown(session, self.store.put(session, path.read_bytes(), path.name))

    def _shown(self, session: str, token: str) -> Picture:
        held = self.store.find(token)
        try:
            size = self.limits.check_file(held.path, held.name)
            png = encode_png(to_8_bit(as_input(held.path).rgb))
            preview = self.store.put(session, png, "preview.png")
        except UnreadableImageError as error:
            self.store.drop(token)
            raise UserError(f"{held.name}: {error.reason}.") from error
        except UserError:
            self.store.drop(token)
            raise
        kept = {token, preview} | self._jobs.needed(session)
        self.store.keep_only(session, PICTURE, kept)
        windows = self.restorer.windows(size, self.restorer.checked(Sampling()))
        return Picture(token, preview, held.name, size, windows)

    def submit(
        self, session: str, picture: Picture, sampling: Sampling, recipe: Recipe | None = None
    ) -> Job:
        """Ask for a restoration; an older request of the same visitor is cancelled.

        Args:
          session: whose it is.
          picture: of `accept`.
          sampling: how to restore.
          recipe: how to degrade it first.

        Raises:
          UserError: the picture was removed, or is too large to be degraded first; a setting does
            not fit; or too many wait.
        """
        self._check_space()
        if recipe is not None:
            self.limits.check_clean(picture.name, picture.size)
        held = self.store.find(picture.token)
        if held is None or held.session != session:
            raise UserError(f"{picture.name}: it was removed meanwhile; choose the picture anew.")
        sampling = self.restorer.checked(sampling)
        request = Request(held.path, held.name, sampling, recipe)
        work = functools.partial(perform, self.restorer, request)
        return self._jobs.submit(Job(session, held.name, work, frozenset([picture.token])))

    def keep_result(self, session: str, answer: Answer) -> dict[str, str]:
        """Keep the files of an answer; the visitor's former ones are forgotten.

        Args:
          session: whose it is.
          answer: what was made.

        Returns:
          name of a field of the answer that holds a file -> its token.

        Raises:
          UserError: they cannot be kept.
        """
        tokens: dict[str, str] = {}
        try:
            for field in _FILES:
                data = getattr(answer, field)
                if data is not None:
                    name = answer.file_name if field == "file" else f"{field}.png"
                    tokens[field] = self.store.put(session, data, name, RESULT)
        except UserError:
            for token in tokens.values():
                self.store.drop(token)
            raise
        self.store.keep_only(session, RESULT, tokens.values())
        return tokens

    def ahead(self, job: Job) -> int:
        """Return how many requests are served before this one."""
        return self._jobs.ahead(job)

    def is_newest(self, job: Job) -> bool:
        """Tell whether its visitor has asked for nothing after it, and is still there."""
        return self._jobs.is_newest(job)

    def cancel(self, session: str) -> None:
        """Cancel a visitor's request."""
        self._jobs.cancel(session)

    def close(self, session: str) -> None:
        """Forget a visitor: requests, uploads and results."""
        self._jobs.close(session)
        self.store.close(session)

    def _check_space(self) -> None:
        if self.is_full():
            raise UserError("This page holds too many pictures already; try again later.")

    def is_full(self) -> bool:
        """Tell whether visitors' files are so many that no more are taken."""
        return self.store.held_bytes() > self.limits.held_bytes

    def guidable(self) -> tuple[str, ...]:
        """Return the branches whose strength these weights let vary."""
        model = self.restorer.config.model
        return tuple(
            name
            for name in BRANCHES
            if model[f"use_{name}"] and model.get(f"dropout_{name}", 0.0) > 0
        )

    def most_passes(self) -> int:
        """Return how many passes a visitor may ask for; 1 where these weights allow no further."""
        config = self.restorer.config
        return 1 if hindrance(config) else max(2, config.eval.passes)

    def _sweep(self) -> None:
        while True:
            time.sleep(_SWEEP_SECONDS)
            try:
                self.store.sweep()
            except OSError:  # a file that went away meanwhile; the next turn finds the rest
                logging.exception("removing old files failed")


def recipe_of(severities: Mapping[str, float], seed: int) -> Recipe:
    """Return the recipe of some sliders.

    Args:
      severities: name of a degradation -> its severity; those of 0 are left out.
      seed: of everything else.

    Raises:
      UserError: all are 0.
    """
    steps = [(name, severity) for name, severity in severities.items() if severity > 0]
    if not steps:
        raise UserError("Every severity is 0; move at least one of the sliders.")
    return Recipe(in_order(steps), seed)


def shipped_samples() -> dict[str, pathlib.Path]:
    """Return the photos that come with a clone of the project; {} where there is none."""
    photos = pathlib.Path(__file__).parents[2] / "configs" / "quickstart_photos"
    found = [*sorted(photos.glob("real/*.png")), *sorted(photos.glob("eval/*.jpg"))]
    return {path.stem: path for path in found}
