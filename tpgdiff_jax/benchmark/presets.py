"""The benchmarks of all-in-one restoration: counts, layouts, and where to get each.

Layouts are those of the published archives where these have two clear folders; else the files
must be sorted into LQ and GT.  Any set may lie in LQ and GT.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tpgdiff_jax.benchmark.sets import SetSpec
from tpgdiff_jax.data.degradations.mix import PRESETS as MIXTURES
from tpgdiff_jax.reporting.errors import UserError

_LOL = "https://daooshee.github.io/BMVC2018website (Wei et al., BMVC 2018)"
_LOL2 = "Yang et al., TIP 2021: github.com/flyywh/CVPR-2020-Semi-Low-Light (LOL-v2, real)"
_GOPRO = "https://seungjunnah.github.io/Datasets/gopro (Nah et al., CVPR 2017)"
_RAIN = "Yang et al., CVPR 2017 (joint rain detection and removal), the authors' page at PKU"
_RESIDE = "https://sites.google.com/view/reside-dehaze-datasets (Li et al., TIP 2019)"
_BSD = "github.com/clausmichele/CBSD68-dataset (originals)"
_KODAK = "https://r0k.us/graphics/kodak"
_MCMASTER = "Zhang et al., JEI 2011: https://www4.comp.polyu.edu.hk/~cslzhang/CDM_Dataset.htm"
_URBAN = "Huang et al., CVPR 2015: github.com/jbhuang0604/SelfExSR (high-resolution images)"
_CDD = "Guo et al., ECCV 2024: github.com/gy65896/OneRestore (CDD-11, test)"
_UDC = "Zhou et al., CVPR 2021: https://yzhouas.github.io/projects/UDC/udc.html"
_PAPER = "named in the TPGDiff paper (arXiv 2601.20306); its split comes from the authors"


def _clean_sets(name: str, title: str, count: int, source: str, gt: str = "") -> list[SetSpec]:
    return [
        SetSpec(
            f"{name}_{sigma}",
            name,
            "clean",
            gt=gt,
            sigma=float(sigma),
            degradation="noise",
            count=count,
            title=f"{title}, sigma {sigma}",
            source=source,
        )
        for sigma in (15, 25, 50)
    ]


def _pairs(name: str, title: str, degradation: str, count: int | None, source: str, **where: Any):
    fields = {"degradation": degradation, "count": count, "title": title, "source": source}
    return SetSpec(name, **({"folder": name} | where), **fields)


_ALL = (
    _pairs("lol", "LOL eval15", "low_light", 15, _LOL, folder="lol/eval15", lq="low", gt="high"),
    _pairs(
        "lol_v2",
        "LOL-v2 real",
        "low_light",
        100,
        _LOL2,
        folder="lol_v2/Real_captured/Test",
        lq="Low",
        gt="Normal",
    ),
    _pairs(
        "gopro",
        "GoPro",
        "blur|motion_blur",
        1111,
        _GOPRO,
        folder="gopro/test",
        lq="*/blur",
        gt="*/sharp",
    ),
    *(
        _pairs(
            f"rain100{kind.lower()}",
            f"Rain100{kind}",
            "rain",
            100,
            _RAIN,
            lq="rain|rainy|input|data|rain-*.*",
            gt="norain|target|gt|norain-*.*",
        )
        for kind in "LH"
    ),
    _pairs("sots_outdoor", "SOTS outdoor", "haze", 500, _RESIDE, lq="hazy", gt="gt|clear"),
    _pairs(
        "sots_indoor",
        "SOTS indoor",
        "haze",
        500,
        _RESIDE,
        lq="hazy",
        gt="gt|clear",
        centre_crop=True,  # 620x460 of 640x480, as all who score it do
    ),
    # As its repository has it: noisy copies lie beside the originals.
    *_clean_sets("bsd68", "BSD68 (colour)", 68, _BSD, gt="original|original_png|"),
    *_clean_sets("kodak24", "Kodak24", 24, _KODAK),
    *_clean_sets("mcmaster", "McMaster", 18, _MCMASTER),
    *_clean_sets("urban100", "Urban100", 100, _URBAN),
    *(
        _pairs(
            "cdd11_" + mixture.replace("low_light", "low").replace(" + ", "_"),
            f"CDD-11 {mixture}",
            mixture.replace(" ", ""),
            200,
            _CDD,
            folder="cdd11/test",
            lq=mixture.replace("low_light", "low").replace(" + ", "_"),
            gt="clear",
        )
        for mixture in MIXTURES["cdd11"]
    ),
    _pairs(
        "nh_haze",
        "NH-HAZE",
        "haze|haze_patchy",
        None,
        "data.vision.ee.ethz.ch/cvl/ntire20/nh-haze",
        lq="LQ|hazy|*_hazy.*|NH-HAZE/*_hazy.*",
        gt="GT|gt|*_GT.*|NH-HAZE/*_GT.*",
    ),
    _pairs("rdnet", "RDNet (demoire)", "moire", None, _PAPER),
    _pairs("weatherbench_snow", "WeatherBench snow", "snow", None, _PAPER),
    _pairs("reside", "RESIDE", "haze", None, f"{_RESIDE}; {_PAPER}"),
    _pairs(
        "raindrop",
        "RainDrop",
        "raindrops",
        None,
        f"Qian et al., CVPR 2018; {_PAPER}",
        lq="LQ|data|test_a/data",
        gt="GT|gt|test_a/gt",
    ),
    _pairs(
        "dpdd",
        "DPDD",
        "defocus",
        None,
        f"Abuolaim and Brown, ECCV 2020; {_PAPER}",
        lq="LQ|source|test_c/source",
        gt="GT|target|test_c/target",
    ),
    _pairs("rs_cloud", "RS-Cloud", "cloud_thin|cloud_thick", None, _PAPER),
    _pairs("poled", "POLED", "poled", 30, _UDC, gt="GT|HQ"),
    _pairs("toled", "TOLED", "toled", 30, _UDC, gt="GT|HQ"),
)
PRESETS = {spec.name: spec for spec in _ALL}
# Names that stand for several sets; their scores are averaged, every set alike.
GROUPS = {
    "five": ("lol", "gopro", "rain100l", "sots_outdoor", "bsd68_25"),
    "single": (
        "lol_v2",
        "nh_haze",
        "rdnet",
        "rain100l",
        "weatherbench_snow",
        "reside",
        "raindrop",
        "dpdd",
        "rs_cloud",
    ),
    "cdd11": tuple(name for name in PRESETS if name.startswith("cdd11_")),
    "udc": ("poled", "toled"),
}

# Fields that decide how a set's pictures are made; others only say where they lie.
_MAKING = ("layout", "sigma", "recipe", "jpeg_quality")


def resolve(entries: tuple[str | Mapping[str, Any], ...], protocol: str = "") -> list[SetSpec]:
    """Turn the entries of `benchmark.sets` into specifications.

    Args:
      entries: names of presets or groups, or mappings of `SetSpec`'s fields; a mapping with
        `preset` changes that preset's fields, and needs a name of its own where its pictures are
        others.
      protocol: replaces every set's own, where given.

    Returns:
      the sets, in order, each once.

    Raises:
      UserError: an unknown name or field, or two sets of one name.
    """
    specs: dict[str, SetSpec] = {}
    for entry in entries:
        for spec in _resolve_one(entry):
            spec = dataclasses.replace(spec, protocol=protocol) if protocol else spec
            if specs.setdefault(spec.name, spec) != spec:
                raise UserError(
                    f"config.benchmark.sets names two different sets {spec.name!r}; rename one."
                )
    return list(specs.values())


def _changed(preset: SetSpec, fields: Mapping[str, Any]) -> SetSpec:
    """Return a preset with other fields.

    Raises:
      UserError: it is called as another preset, or as before though its pictures are other ones.
    """
    others = [
        key for key in _MAKING if fields.get(key, getattr(preset, key)) != getattr(preset, key)
    ]
    name = str(fields.get("name", preset.name))
    if others and name in PRESETS:
        raise UserError(
            f"config.benchmark.sets: {others[0]}={fields[others[0]]!r} makes other pictures than "
            f"the preset {preset.name!r} has; give this set a name of its own, such as "
            f'"name": "{preset.name}_changed".'
        )
    if name != preset.name:
        _check_own_name(name)
    return dataclasses.replace(preset, **({"title": ""} if others else {}) | fields)


def _check_own_name(name: str) -> None:
    """Raise UserError for the name of a preset: its scores would stand among published ones."""
    if name in PRESETS:
        raise UserError(
            f"config.benchmark.sets: a set of your own is called as the preset {name!r}; choose "
            f'another name, or say {{"preset": "{name}", "folder": ...}} if it is that one.'
        )


def _resolve_one(entry: str | Mapping[str, Any]) -> list[SetSpec]:
    if isinstance(entry, str):
        names = GROUPS.get(entry, (entry,))
        if not set(names) <= PRESETS.keys():
            raise UserError(
                f"config.benchmark.sets: {entry!r} is no preset; expected a group "
                f"({', '.join(GROUPS)}), one of {', '.join(PRESETS)}, or a mapping of fields."
            )
        return [PRESETS[name] for name in names]
    if not isinstance(entry, Mapping):
        raise UserError(
            f"config.benchmark.sets: {entry!r} is neither a name nor a mapping of fields, such as "
            '{"name": "mine", "folder": "mine"}.'
        )
    fields = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    preset = fields.pop("preset", None)
    known = {field.name for field in dataclasses.fields(SetSpec)}
    if unknown := fields.keys() - known:
        raise UserError(
            f"config.benchmark.sets: {sorted(unknown)[0]!r} is no field of a test set; expected "
            f"preset, {', '.join(sorted(known))}."
        )
    if preset is not None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise UserError(
                f"config.benchmark.sets: preset={preset!r} is no single set; expected one of "
                f"{', '.join(PRESETS)}."
            )
        return [_changed(PRESETS[preset], fields)]
    if missing := {"name", "folder"} - fields.keys():
        raise UserError(
            f"config.benchmark.sets: {dict(entry)!r} lacks {' and '.join(sorted(missing))}."
        )
    _check_own_name(str(fields["name"]))
    return [SetSpec(**fields)]
