"""Rules that say which parameters are split over the devices, and along which mesh axes.

A rule is (regex, tactic) or (regex, tactic, least elements); the first whose regex is found in a
parameter's path decides.  This file needs no JAX, so that a configuration can name its rules.
"""

import re
from collections.abc import Sequence

from tpgdiff_jax.reporting.errors import UserError

# `fsdp` splits a tensor's largest axis that divides; `tensor` its output channels, the last axis,
# so that every sum over input channels stays on one device; `tensor+fsdp` splits both.
TACTICS = ("replicate", "fsdp", "tensor", "tensor+fsdp")

# Splitting small tensors costs more in messages than it saves in memory.
MIN_SHARDED_ELEMENTS = 2**16

# For the whole system, so that mesh.fsdp or mesh.tensor above 1 needs no rules of its own.
# `tensor` is for the UNet's attention, its residual blocks and what leads up to the next level.
# The priors' encoders stay out of it: compiled by XLA (as of jax 0.10.2) with their channels or the
# connector's split, they get wrong gradients.  So do modulations and embeddings, which see one
# vector per image: too little work.
DEFAULT_RULES = (
    (r"unet/(down_\d+|up_\d+|middle)_attention/.*kernel$", "tensor+fsdp"),
    (r"unet/.*block(_\d+)?/(conv_in|conv_out|skip)/kernel$", "tensor+fsdp"),
    (r"unet/up_\d+_resample/.*kernel$", "tensor+fsdp"),
    (r"kernel$", "fsdp"),
    (r".*", "replicate"),
)

Rule = tuple[str, str] | tuple[str, str, int]


def check_rules(rules: Sequence[Rule]) -> None:
    """Raise UserError unless every rule has a valid regex, a known tactic and a sensible size."""
    for rule in rules:
        is_list = isinstance(rule, tuple | list) and len(rule) in (2, 3)
        if not is_list or not all(isinstance(part, str) for part in rule[:2]):
            raise UserError(
                f"config.sharding: {rule!r} must be (regex, tactic) or (regex, tactic, least "
                "elements)."
            )
        pattern, tactic, least = full_rule(rule)
        if tactic not in TACTICS:
            raise UserError(
                f"config.sharding: tactic {tactic!r} of {pattern!r} is unknown; expected one of "
                f"{', '.join(TACTICS)}."
            )
        if not isinstance(least, int) or isinstance(least, bool) or least < 0:
            raise UserError(
                f"config.sharding: {least!r} elements of {pattern!r}: expected a whole number, "
                "zero or more."
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"config.sharding: {pattern!r} is no regex: {error}.") from error


def full_rule(rule: Rule) -> tuple[str, str, int]:
    """Return (regex, tactic, least elements) of a rule that may leave the last one out."""
    pattern, tactic, *least = rule
    return pattern, tactic, least[0] if least else MIN_SHARDED_ELEMENTS
