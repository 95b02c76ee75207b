"""The parameters a module has, told without making them; and whether weights are these."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from tpgdiff_jax.backbones.conv_tower import ConvTower
from tpgdiff_jax.backbones.depth_anything import DepthAnything
from tpgdiff_jax.backbones.segformer import SegFormer
from tpgdiff_jax.backbones.vgg import Vgg16
from tpgdiff_jax.backbones.vit import ClipImageTower
from tpgdiff_jax.models.unet import GuidedUNet
from tpgdiff_jax.priors.compact import CompactEncoder
from tpgdiff_jax.priors.degradation import DegradationPrior
from tpgdiff_jax.priors.semantic import SemanticPrior
from tpgdiff_jax.priors.structural import StructuralPrior
from tpgdiff_jax.reporting.errors import UserError


def abstract_params(module: nn.Module | Mapping[str, nn.Module]) -> Any:
    """Return the shapes of a module's parameters, or of several modules' by their names.

    Args:
      module: one of this project's networks, or name -> network.

    Returns:
      nested dict of `jax.ShapeDtypeStruct`.
    """
    if isinstance(module, Mapping):
        return {name: abstract_params(inner) for name, inner in module.items()}

    def init(*inputs):  # the key is made inside, so that no device is touched
        return module.init(jax.random.key(0), *inputs)["params"]

    return jax.eval_shape(init, *_inputs(module))


def possible_params(module: nn.Module | Mapping[str, nn.Module], what: str) -> Any:
    """Return what `abstract_params` returns of a module whose sizes come from somebody's file.

    Args:
      module: as for `abstract_params`.
      what: whose sizes they are, for messages.

    Raises:
      UserError: no network can have these sizes, such as a width that its heads do not divide.
    """
    try:
        return abstract_params(module)
    except UserError:
        raise
    except (ArithmeticError, TypeError, ValueError, AttributeError, LookupError) as error:
        why = " ".join(str(error).partition("\n\n")[0].split())[:200]
        raise UserError(f"{what}, has sizes that no such network can have ({why}).") from error


def _inputs(module: nn.Module) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Return inputs the module takes; parameters' shapes do not depend on their size."""

    def image(side: int, channels: int = 3) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)

    match module:
        case GuidedUNet():
            return image(16), image(16), jax.ShapeDtypeStruct((1,), jnp.float32)
        case StructuralPrior():
            return image(16), image(16, 1), image(16, 1)
        case ClipImageTower(image_size=size):
            return (image(size),)
        case SemanticPrior(student=tower) | DegradationPrior(backbone=tower):
            return _inputs(tower)
        case DepthAnything(patch=patch):
            return (image(2 * patch),)
        case SegFormer() | Vgg16() | CompactEncoder() | ConvTower():
            return (image(64),)
    raise UserError(f"{type(module).__name__} is no network of this project.")


def check_group(
    path, group: str, found: Mapping[str, Any] | None, shapes: Mapping[str, Any]
) -> None:
    """Raise UserError unless a group holds exactly the parameters of its network."""
    if found is None:
        raise UserError(f"{path} holds no weights of {group!r}, which this system needs.")
    have = {"/".join(key): np.shape(value) for key, value in flatten_dict(found).items()}
    want = {"/".join(key): leaf.shape for key, leaf in flatten_dict(shapes).items()}
    wrong = sorted(key for key in have.keys() | want.keys() if have.get(key) != want.get(key))
    if wrong:
        key = wrong[0]
        raise UserError(
            f"{path}: {len(wrong)} weights of {group!r} do not fit; the first, {key}, has shape "
            f"{have.get(key, 'none')}, expected {want.get(key, 'none')}. The configuration (model, "
            "priors) must be that of the weights."
        )
