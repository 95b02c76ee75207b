"""What a compiled program calls: custom kernels, and how it attends."""

import collections
import re
from typing import Any

_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_FUSION_KIND = re.compile(r'"kind":"(__[a-z_]+)"')
_FLASH = ("fmha", "flash", "splash", "mosaic")
# Shapes of intermediate results, such as f32[16,16,1024,1024].
_SHAPE = re.compile(r"\b(?:f32|bf16|f16)\[([0-9,]+)\]")


def custom_calls(compiled: Any) -> dict[str, int]:
    """Return how often a program calls each kernel from outside XLA (cuDNN, cuBLAS, Triton ...).

    Args:
      compiled: `jax.jit(f).lower(...).compile()`.
    """
    text = compiled.as_text()
    found = collections.Counter(_TARGET.findall(text))
    found.update(_FUSION_KIND.findall(text))
    return dict(found.most_common())


def attention(compiled: Any, tokens: int) -> str:
    """Say how a program attends: by which flash kernels, or with all scores in memory.

    Args:
      compiled: `jax.jit(f).lower(...).compile()`.
      tokens: of the largest self-attention, at least 2.
    """
    calls = custom_calls(compiled)
    flash = {name: count for name, count in calls.items() if any(w in name for w in _FLASH)}
    words = [f"{name} x{count}" for name, count in flash.items()]
    held = _scores_held(compiled.as_text(), tokens)
    if held:
        words.append(f"scores [{held}] in memory")
    return ", ".join(words) or "no flash kernel, no scores in memory"


def _scores_held(text: str, tokens: int) -> str | None:
    """Return the largest array that ends in tokens x tokens, as its axes; None without one.

    Scores have axes of images and heads before those: three axes may be as many channels as tokens.
    """
    ending = f",{tokens},{tokens}"
    found = {shape for shape in _SHAPE.findall(text) if f",{shape}".endswith(ending)}
    shapes = {shape for shape in found if shape.count(",") > 2}
    sizes = {shape: _product(map(int, shape.split(","))) for shape in shapes}
    return max(sizes, key=sizes.get) if sizes else None


def _product(numbers) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total
