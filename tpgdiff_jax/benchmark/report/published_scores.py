"""Numbers that papers print, each with its source and protocol."""

import functools
import importlib.resources
import json
from typing import Any

# Titles of the published tables, by group of test sets.
TABLES = {
    "five": "Five degradations, one model",
    "single": "One model per degradation",
    "udc": "Degradations unknown to the model",
}


@functools.cache
def published_rows() -> tuple[dict[str, Any], ...]:
    """Return the published rows.

    Returns:
      rows of {"group", "method", "protocol" (or "not stated"), "source", "remark", "scores":
      {set or "average": {"psnr", "ssim", ...}}}.
    """
    text = (importlib.resources.files(__package__) / "published.json").read_text()
    return tuple(json.loads(text))
