"""The table of degradations: what there is, and in which order light meets it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tpgdiff_jax.data.degradations import (
    atmosphere,
    coding,
    display,
    haze,
    optics,
    rain,
    raindrops,
    sensor,
    snow,
)

# From the scene to the file: a mixture applies its degradations in this order.
STAGES = ("scene", "weather", "lens", "exposure", "sensor", "coding")


@dataclasses.dataclass(frozen=True)
class Degradation:
    """One way to degrade a photograph.

    Attributes:
      name: its key in `DEGRADATIONS`.
      apply: (image float32 [H, W, 3] RGB in [0, 1], **parameters) -> image of the same kind.
      sample: (generator, severity in [0, 5]) -> parameters, plain numbers and strings.  Severity
        0 leaves the image alone; 1 to 5 are the named levels.  From the same state of the
        generator a higher severity gives the same degradation, only stronger.
      stage: one of `STAGES`.
      least_drawn: the least severity that mixtures draw; a recipe may name a lower one.
    """

    name: str
    apply: Callable[..., np.ndarray]
    sample: Callable[[np.random.Generator, float], dict[str, Any]]
    stage: str
    least_drawn: float = 0.0


DEGRADATIONS: dict[str, Degradation] = {
    entry.name: entry
    for entry in (
        Degradation("haze", haze.haze, haze.sample_haze, "scene"),
        Degradation("haze_patchy", atmosphere.haze_patchy, atmosphere.sample_haze_patchy, "scene"),
        Degradation("cloud_thin", atmosphere.cloud_thin, atmosphere.sample_cloud_thin, "scene"),
        Degradation("cloud_thick", atmosphere.cloud_thick, atmosphere.sample_cloud_thick, "scene"),
        Degradation("rain", rain.rain, rain.sample_rain, "weather"),
        Degradation("snow", snow.snow, snow.sample_snow, "weather"),
        Degradation("raindrops", raindrops.raindrops, raindrops.sample_raindrops, "lens"),
        Degradation("poled", display.poled, display.sample_poled, "lens"),
        Degradation("toled", display.toled, display.sample_toled, "lens"),
        Degradation("defocus", optics.defocus, optics.sample_defocus, "lens"),
        Degradation("blur", optics.blur, optics.sample_blur, "lens"),
        Degradation("motion_blur", optics.motion_blur, optics.sample_motion_blur, "lens"),
        Degradation("low_light", sensor.low_light, sensor.sample_low_light, "exposure", 1.0),
        Degradation("moire", display.moire, display.sample_moire, "sensor"),
        Degradation("camera_noise", sensor.camera_noise, sensor.sample_camera_noise, "sensor"),
        Degradation("colour_noise", sensor.colour_noise, sensor.sample_colour_noise, "sensor"),
        Degradation("noise", sensor.noise, sensor.sample_noise, "sensor"),
        Degradation("resample", coding.resample, coding.sample_resample, "coding"),
        Degradation("jpeg", coding.jpeg, coding.sample_jpeg, "coding"),
        Degradation("webp", coding.webp, coding.sample_webp, "coding"),
    )
}
