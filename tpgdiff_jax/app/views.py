"""What the page shows, as HTML: readable without colours, by a screen reader and by keyboard.

Pictures come by their tokens from `server.py`; nothing else is fetched.
"""

import html
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from tpgdiff_jax.app import jobs
from tpgdiff_jax.app.jobs import Job
from tpgdiff_jax.app.work import DIFFERENCE_GAIN, PROTOCOL, Answer

_MOST_SHOWN = 6  # degradations; the others have small probabilities


def picture_url(token: str, name: str = "") -> str:
    """Return where the browser finds a visitor's file; with a name it saves it under that."""
    return f"pictures/{token}" + (f"?name={quote(name)}" if name else "")


def sample_url(name: str) -> str:
    """Return where the browser finds a picture that is offered."""
    return f"samples/{quote(name)}"


def title(is_local: bool, seconds: float) -> str:
    """Show what the page does, and where a picture goes.

    Args:
      is_local: whether visitors sit at this machine.
      seconds: after which files are removed.
    """
    where = "It stays on this machine."
    if not is_local:
        where = (
            "It is sent to this page's server, unencrypted, and removed when you close the page, "
            f"after {_duration(seconds)} at the latest."
        )
    return (
        "<h1>Restore a photograph</h1><p>Noise, blur, haze, rain, low light, compression: choose a "
        f"picture and press Restore. {where}</p>"
    )


def samples(names: Iterable[str]) -> str:
    """Show the pictures offered, as buttons."""
    buttons = "".join(
        f'<button type="button" data-sample="{_text(name)}">'
        f'<img src="{sample_url(name)}" alt="" loading="lazy"><span>{_text(name)}</span></button>'
        for name in names
    )
    return f'<div class="samples" role="group" aria-label="Examples">{buttons}</div>'


def chosen(token: str, name: str, size: tuple[int, int], windows: int = 1) -> str:
    """Show the picture that was chosen, and in how many windows it is restored."""
    caption = f"{_text(name)}, {size[1]}x{size[0]} pixels"
    if windows > 1:
        caption += f"; restored in {windows} windows, which takes a while without a GPU"
    return (
        f'<figure class="chosen"><img src="{picture_url(token)}" alt="The picture chosen: '
        f'{_text(name)}"><figcaption>{caption}</figcaption></figure>'
    )


def sentence(text: str, kind: str = "note") -> str:
    """Show one sentence; `kind` is "note" or "error"."""
    mark = "&#9888;&#65039; " if kind == "error" else ""
    return f'<p class="said {kind}">{mark}{_text(text)}</p>'


def progress(job: Job, ahead: int) -> str:
    """Show how far a request is."""
    if job.state == jobs.WAITING and ahead:
        others = "1 picture is" if ahead == 1 else f"{ahead} pictures are"
        return sentence(f"Waiting: {others} before yours.")
    # A bar for each pass: whether another one follows is not known before.
    steps = job.total // job.passes
    done = job.done - steps * (job.passes - 1)
    name, said = "Restoring", "Restoring."
    if job.passes > 1:
        name, said = "Restoring once more", "The result still looks degraded: restoring once more."
    if done == 0:
        if job.passes == 1:
            said += " The first picture of a size takes longer: its program is compiled."
        return f"{sentence(said)}<progress aria-label='{name}'></progress>"
    left = job.seconds_left() if done < steps else None
    rest = "" if left is None else f", about {_duration(left)} left"
    bar = f"<progress aria-label='{name}' max='{steps}' value='{done}'></progress>"
    return sentence(f"{said} Step {done} of {steps}{rest}.") + bar


def comparison(before: str, after: str, size: tuple[int, int], labels: tuple[str, str]) -> str:
    """Show two pictures over each other, with a divider that mouse, finger and keys move.

    Args:
      before, after: tokens.
      size: (height, width) of both.
      labels: what they are.
    """
    height, width = size
    first, second = map(_text, labels)
    # The divider is a range: whatever moves a range moves it, and screen readers know it.
    return f"""
<div class="comparison" style="--cut: 50%; --wide: {width}; --high: {height};">
  <div class="stack">
    <img src="{picture_url(after)}" alt="{second}">
    <img class="over" src="{picture_url(before)}" alt="{first}">
    <span class="divider" aria-hidden="true"></span>
    <input type="range" min="0" max="100" step="0.5" value="50"
      aria-label="Divider: {first} on the left, {second} on the right"
      oninput="this.closest('.comparison').style.setProperty('--cut', this.value + '%')">
  </div>
  <p class="sides" aria-hidden="true"><span>{first}</span><span>{second}</span></p>
</div>"""


def findings(answer: Answer) -> str:
    """Show what degraded the picture, and how sure each of its degradations is."""
    if not answer.degradations:
        return ""
    rows = "".join(
        f"<tr><th scope='row'>{_text(name.replace('_', ' '))}</th>"
        f"<td><meter min='0' max='1' value='{share:.3f}' aria-hidden='true'></meter></td>"
        f"<td>{share:.0%}</td></tr>"
        for name, share in list(answer.degradations.items())[:_MOST_SHOWN]
    )
    # Without the chance of just this answer: another number than the bars beside it.
    name = answer.verdict[0].replace("_", " ").replace("+", " + ")
    said = f"Predicted degradation: {name}"
    return f"<table class='findings'><caption>{_text(said)}</caption>{rows}</table>"


def score_table(scores: Mapping[str, tuple[float, float]]) -> str:
    """Show PSNR and SSIM against the clean picture."""
    if not scores:
        return sentence(f"The picture is too small for scores ({PROTOCOL.smallest} pixels a side).")
    names = {"input": "degraded", "restored": "restored"}
    rows = "".join(
        f"<tr><th scope='row'>{names[key]}</th><td>{psnr:.2f} dB</td><td>{ssim:.4f}</td></tr>"
        for key, (psnr, ssim) in scores.items()
    )
    head = "<tr><td></td><th scope='col'>PSNR</th><th scope='col'>SSIM</th></tr>"
    caption = "Against the clean picture, over RGB, 4 border pixels left out"
    return f"<table class='scores'><caption>{caption}</caption>{head}{rows}</table>"


def further(token: str, alt: str, caption: str) -> str:
    """Show one more picture with a caption."""
    return (
        f'<figure class="further"><img src="{picture_url(token)}" alt="{_text(alt)}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def download(token: str, name: str) -> str:
    """Show the link that saves the result."""
    return (
        f'<p><a class="download" href="{picture_url(token, name)}" download="{_text(name)}">'
        f"Download {_text(name)}</a></p>"
    )


def result(answer: Answer, tokens: Mapping[str, str]) -> str:
    """Show all of a result.

    Args:
      answer: what was made.
      tokens: name of a field of it that holds a file -> its token.
    """
    parts = [
        comparison(tokens["before"], tokens["after"], answer.size, ("degraded", "restored")),
        download(tokens["file"], answer.file_name),
        findings(answer),
    ]
    if answer.passes > 1:
        said = "its first restoration still looked degraded"
        parts.append(sentence(f"Restored {answer.passes} times in a row: {said}."))
    if answer.difference is not None:
        parts.append(score_table(answer.scores))
        said = (
            f"Difference of the restored and the clean picture, {DIFFERENCE_GAIN} times as bright"
        )
        parts.append(further(tokens["difference"], "Difference picture", said))
    if answer.deviation is not None:
        said = "Uncertainty: where samples differ; white is a standard deviation of 0.1 or more"
        parts.append(further(tokens["deviation"], "Uncertainty map", said))
    return "".join(parts)


def _duration(seconds: float) -> str:
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 90 else f"{round(whole / 60)} min"


def _text(text: object) -> str:
    return html.escape(str(text))
