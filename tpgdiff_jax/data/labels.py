"""The labels of a data set's pairs, in the order of a run's classes."""

from collections.abc import Sequence

from tpgdiff_jax.data.degradations.registry import DEGRADATIONS
from tpgdiff_jax.reporting.errors import UserError

# The class of pairs that none of a run's degradations describes.  Their label names nothing.
OTHER = "other"


def degradations_of(class_name: str) -> tuple[str, ...]:
    """Return what degraded the pairs of a class: several where `+` joins them; () for `OTHER`."""
    return () if class_name == OTHER else tuple(class_name.split("+"))


def relabelled(
    stored: Sequence[str],
    wanted: Sequence[str] | None,
    root: str,
    class_name: str | None = None,
    remedy: str = "write the data set anew with one of these as its class",
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Bring the labels of a data set into the order a run wants.

    Args:
      stored: names of the data set's classes, in the order of its labels.
      wanted: names of the run's classes; None: the data set's own.  Mixtures of them and `OTHER`
        come after them where the data set has these, too.
      root: the data set, for the error.
      class_name: what degraded all pairs of a data set that names no classes.
      remedy: what to do where a class is not among those wanted.

    Returns:
      names of the classes, and stored label -> label.

    Raises:
      UserError: a stored class is not among those wanted, or none is stored and nothing else says
        what degraded the pairs; or both say so.
    """
    if stored and class_name:
        raise UserError(
            f"{root!r} names its own classes, {', '.join(stored)}; leave out "
            f"class_name={class_name!r}."
        )
    stored = stored or ((class_name,) if class_name else ())
    if wanted is not None and not stored:
        raise UserError(
            f"{root!r} does not say what degraded its pairs; add class_name=NAME to the source, "
            f"one of {', '.join(wanted)}, or {OTHER}; or write it with classes."
        )
    classes = tuple(stored if wanted is None else wanted)
    classes += tuple(
        name for name in stored if name not in classes and {*degradations_of(name)} <= {*classes}
    )
    unknown = [name for name in stored if name not in classes]
    if unknown:
        known = "add it to config.data.degradations, or " if unknown[0] in DEGRADATIONS else ""
        raise UserError(
            f"{root!r} holds pairs of class {unknown[0]!r}, which is not among {list(classes)}; "
            f"{known}{remedy}. The class {OTHER!r} stands for what none of them names."
        )
    return classes, {label: classes.index(name) for label, name in enumerate(stored)}
