"""The networks of stage one: the semantic student, the degradation classifier, their teacher."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tpgdiff_jax.backbones.vgg import Vgg16
from tpgdiff_jax.backbones.vit import ClipImageTower, clip_view
from tpgdiff_jax.models.tpgdiff import choose_convolutions, degradation_prior, image_tower
from tpgdiff_jax.priors.degradation import DegradationPrior
from tpgdiff_jax.priors.semantic import SemanticPrior

TEACHERS = ("clip", "vgg")


@dataclasses.dataclass(frozen=True)
class StageOne:
    """The networks of stage one; parameters {"semantic", "degradation"} are trained.

    Attributes:
      semantic: its student learns from the teacher.
      degradation: backbone and classifier.
      teacher: frozen; sees the clean image.
      teacher_size: at so many pixels.
    """

    semantic: SemanticPrior
    degradation: DegradationPrior
    teacher: ClipImageTower | Vgg16
    teacher_size: int = 224

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Return random parameters of the trained networks."""
        keys = jax.random.split(key)
        image = jnp.zeros((1, self.teacher_size, self.teacher_size, 3))
        view = self.semantic.student.view(image)
        return {
            "semantic": self.semantic.init(keys[0], view)["params"],
            "degradation": self.degradation.init(keys[1], view)["params"],
        }

    def views(self, gt: jax.Array, lq: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return what the teacher sees of clean, and student and backbone of degraded images.

        Args:
          gt, lq: float [B, H, W, 3] in [0, 1].
        """
        return clip_view(gt, self.teacher_size), self.semantic.student.view(lq)


def build_stage_one(config: ConfigDict) -> StageOne:
    """Build stage one's networks, without weights.

    Args:
      config: a whole configuration; reads `model`, `priors` and `data.degradations`.
    """
    choose_convolutions(config)
    tower = image_tower(config)
    is_clip = config.priors.teacher == "clip"
    return StageOne(
        semantic=SemanticPrior(tower),
        degradation=degradation_prior(config),
        teacher=tower if is_clip else Vgg16(**tower.dtypes),
        teacher_size=tower.image_size if is_clip else config.priors.teacher_size,
    )
