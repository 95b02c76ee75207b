"""`--reference=FOLDER`: the released program's files are found, run in turns with ours, or named.

A checkout made here stands in for the released one: files of its names, a network of its interface.
"""

import numpy as np
import pytest

from launch.bench import model, versus
from launch.bench.reference import FORMS, Released
from tpgdiff_jax.config import base_config
from tpgdiff_jax.reporting.errors import UserError

pytest.importorskip("torch")

NETWORK = """
import torch
from .module_util import scaled

class ConditionalUNet(torch.nn.Module):
    def __init__(self, in_nc, out_nc, nf, ch_mult, context_dim, use_degra_context,
                 use_image_context, use_struct_context, struct_context_dim):
        super().__init__()
        self.conv = torch.nn.Conv2d(in_nc, out_nc, 3, padding=1)

    def load_state_dict(self, state):
        if "init_conv.weight" not in state:
            raise RuntimeError("Missing key(s): init_conv.weight")

    def forward(self, xt, cond, time, deg_context=None, content_context=None, struct_tokens=None):
        return scaled(self.conv(xt - cond))
"""
SAMPLER = """
import torch
import torchvision.utils as tvutils
from tqdm import tqdm

class IRSDE:
    def __init__(self, max_sigma, T, sample_T, schedule, eps, device):
        self.steps = sample_T
    def set_model(self, model): self.model = model
    def set_mu(self, mu): self.mu = mu
    def noise_state(self, x): return x + torch.randn_like(x)
    def reverse_posterior(self, x, **known):
        for t in tqdm(range(self.steps)):
            x = x - self.model(x, self.mu, t, **known)
        return x
"""


@pytest.fixture
def checkout(tmp_path):
    modules = tmp_path / "universal-restoration/config/tpgd-sde/models/modules"
    modules.mkdir(parents=True)
    (modules / "__init__.py").write_text("raise ImportError('not to be run')\n")
    (modules / "module_util.py").write_text("def scaled(x):\n    return 0.1 * x\n")
    (modules / "DenoisingUNet_arch.py").write_text(NETWORK)
    (tmp_path / "universal-restoration/utils").mkdir()
    (tmp_path / "universal-restoration/utils/sde_utils.py").write_text(SAMPLER)
    return str(tmp_path)


@pytest.fixture(scope="module")
def tiny():
    config = base_config()
    config.model.update({"width": 4, "multipliers": (1,), "first_attention_level": 9})
    config.model.update({"use_semantic": False, "use_structure": False})
    config.data.update({"batch_size": 2, "crop_size": 16})
    return config.lock()


@pytest.fixture
def sources(monkeypatch):
    """Accept a network that the released program does not have."""
    from launch.bench import reference

    monkeypatch.setattr(reference, "to_reference", lambda *_: {"init_conv.weight": np.ones(1)})


@pytest.mark.parametrize("steps", [None, 2])
def test_both_programs_run_in_turns(checkout, tiny, sources, steps):
    rows = versus.bench_against(tiny, checkout, repeats=1, steps=steps)
    works = {"chain of 2"} if steps else {"forward", "train step"}
    assert {row["what"] for row in rows} == works
    assert len(rows) == len(works) * (len(FORMS) + 2)
    assert all((row["times_faster"] or 1) > 0 for row in rows)
    ours = [row for row in rows if row["program"].startswith("ours")]
    assert all(row["times_faster"] is not None for row in ours)


@pytest.mark.parametrize("missing", ["DenoisingUNet_arch.py", "sde_utils.py"])
def test_missing_files_are_named(checkout, tiny, sources, missing, tmp_path):
    next(tmp_path.rglob(missing)).unlink()
    with pytest.raises(UserError, match=f"{missing}; name a checkout"):
        Released(checkout, tiny, {}, "float32")


def test_missing_library_is_named(checkout, tiny, sources, tmp_path):
    next(tmp_path.rglob("module_util.py")).write_text("import no_such_library\n")
    with pytest.raises(UserError, match="--reference needs no_such_library"):
        Released(checkout, tiny, {}, "float32")


def test_other_structures_are_refused(checkout, tiny, monkeypatch):
    from launch.bench import reference

    monkeypatch.setattr(reference, "to_reference", lambda *_: {})
    with pytest.raises(UserError, match=r"config.model must have\s+its structure"):
        Released(checkout, tiny, {}, "float32")


def test_channels_come_first_for_the_released_program(checkout, tiny, sources):
    released = Released(checkout, tiny, {}, "bfloat16, channels last")
    tensor = released.image(np.zeros((2, 4, 5, 3)))
    assert tuple(tensor.shape) == (2, 3, 4, 5)
    assert tensor.is_contiguous(memory_format=released.torch.channels_last)


def test_inputs_are_those_of_the_model_measurement(tiny):
    _, _, batch = model.system(tiny)
    assert batch["priors"].semantic is None
    assert batch["x_t"].shape == (2, 16, 16, 3)
