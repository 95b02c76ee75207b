"""The released PyTorch program's own network and sampler, run from the user's checkout of it.

Nothing of it is copied here: its files are loaded from where they lie (the repository
leoyjTu/TPGDiff on GitHub), and our weights are put into its network.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import pathlib
import sys
import types
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints.convert import to_reference
from tpgdiff_jax.priors import Priors
from tpgdiff_jax.reporting.errors import UserError

_NETWORK = "universal-restoration/config/tpgd-sde/models/modules/DenoisingUNet_arch.py"
_SAMPLER = "universal-restoration/utils/sde_utils.py"
_PACKAGE = "released_tpgdiff"
# How it may be run: name -> (bfloat16 by autocast, channels last).
FORMS = {
    "float32": (False, False),
    "float32, channels last": (False, True),
    "bfloat16": (True, False),
    "bfloat16, channels last": (True, True),
}


class Released:
    """The released network with our weights, in one of `FORMS`."""

    def __init__(self, folder: str, config: ConfigDict, params: Any, form: str):
        """Load its files and weights.

        Args:
          folder: the checkout.
          config: reads `model` and `diffusion`.
          params: our UNet's.
          form: one of `FORMS`.

        Raises:
          UserError: a file or library is missing, or the network has no such form there.
        """
        torch = _import("torch", "pip install torch")
        network, self._sde_class = _network_class(folder), _sampler_class(folder)
        model = config.model
        net = network(
            in_nc=3,
            out_nc=3,
            nf=model.width,
            ch_mult=list(model.multipliers),
            context_dim=512,
            use_degra_context=model.use_degradation,
            use_image_context=model.use_semantic,
            use_struct_context=model.use_structure,
            struct_context_dim=256,
        )
        state = {name: torch.tensor(value) for name, value in to_reference(params, "unet").items()}
        try:
            net.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(
                "--reference: the released network cannot hold these weights; config.model must "
                f"have its structure (configs/bench/unet.py has). {str(error)[:300]}"
            ) from error
        self.torch, self._diffusion = torch, config.diffusion
        self._low, self._last = FORMS[form]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        layout = torch.channels_last if self._last else torch.contiguous_format
        self.net = net.to(self.device, memory_format=layout)

    def image(self, images: Any) -> Any:
        """Return [B, H, W, C] as this form takes it, [B, C, H, W]."""
        tensor = self.torch.tensor(np.moveaxis(np.asarray(images, np.float32), -1, 1))
        layout = self.torch.channels_last if self._last else self.torch.contiguous_format
        return tensor.to(self.device).contiguous(memory_format=layout)

    def known(self, priors: Priors) -> dict[str, Any]:
        """Return the priors under the names that its network has for them."""
        names = {
            "deg_context": priors.degradation,
            "content_context": priors.semantic,
            "struct_tokens": priors.structure,
        }
        return {
            name: self.torch.tensor(np.asarray(value)).to(self.device)
            for name, value in names.items()
            if value is not None
        }

    def precision(self) -> Any:
        """Return the context in which this form computes."""
        kind = self.torch.bfloat16
        return self.torch.autocast(self.device, dtype=kind, enabled=self._low)

    def finish(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def forward(self, batch: dict[str, Any]) -> Callable[[], Any]:
        """Return what runs the network once on {x_t, lq, t, priors}; it gives [B, H, W, 3]."""
        x_t, lq = self.image(batch["x_t"]), self.image(batch["lq"])
        t = self.torch.tensor(np.asarray(batch["t"])).to(self.device)
        known = self.known(batch["priors"])

        def run():
            with self.torch.no_grad(), self.precision():
                answer = self.net(x_t, lq, t, **known)
            self.finish()
            return np.moveaxis(answer.float().cpu().numpy(), 1, -1)

        return run

    def train_step(self, batch: dict[str, Any]) -> Callable[[], Any]:
        """Return what takes one step of AdamW on {gt, lq, x_t, t, priors}."""
        gt, lq, x_t = (self.image(batch[name]) for name in ("gt", "lq", "x_t"))
        t = self.torch.tensor(np.asarray(batch["t"])).to(self.device)
        known = self.known(batch["priors"])
        optimizer = self.torch.optim.AdamW(self.net.parameters(), lr=2e-4, betas=(0.9, 0.99))

        def run():
            optimizer.zero_grad()
            with self.precision():  # the backward pass, too: it computes parts again
                answer = self.net(x_t, lq, t, **known)
                (answer.float() - gt).abs().mean().backward()
            optimizer.step()
            self.finish()

        return run

    def sample(self, lq: Any, priors: Priors, steps: int) -> Callable[[], Any]:
        """Return what runs its posterior sampler on [B, H, W, 3] in [0, 1]."""
        settings, lq = self._diffusion, self.image(lq)
        sde = self._sde_class(
            settings.max_sigma,
            T=settings.num_steps,
            sample_T=steps,
            schedule=settings.schedule,
            eps=settings.eps,
            device=self.device,
        )
        sde.set_model(self.net)
        sde.set_mu(lq)
        known = self.known(priors)

        def run():
            with self.torch.no_grad(), self.precision():
                restored = sde.reverse_posterior(sde.noise_state(lq), **known)
            self.finish()
            return np.moveaxis(restored.float().cpu().numpy(), 1, -1)

        return run


def _import(name: str, remedy: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"--reference needs {error.name or name}; {remedy}.") from error


def _file(folder: str, name: str) -> pathlib.Path:
    path = pathlib.Path(folder) / name
    if not path.is_file():
        raise UserError(
            f"--reference={folder} holds no {name}; name a checkout of the released program "
            "(github.com/leoyjTu/TPGDiff)."
        )
    return path


@functools.cache
def _network_class(folder: str) -> Any:
    """Load the network's file as part of a package of its folder, whose `__init__` is not run."""
    path = _file(folder, _NETWORK)
    name = f"{_PACKAGE}_{zlib.crc32(os.fsencode(folder))}"
    package = types.ModuleType(name)
    package.__path__ = [str(path.parent)]
    sys.modules[name] = package
    return _import(f"{name}.{path.stem}", "pip install einops").ConditionalUNet


@functools.cache
def _sampler_class(folder: str) -> Any:
    path = _file(folder, _SAMPLER)
    spec = importlib.util.spec_from_file_location(f"{_PACKAGE}_sampler", path)
    module = importlib.util.module_from_spec(spec)
    with _stand_in_for_torchvision():
        try:
            spec.loader.exec_module(module)
        except ImportError as error:
            raise UserError(f"--reference: {path} needs {error.name}; install it.") from error
    module.tqdm = iter  # no bars
    return module.IRSDE


@contextlib.contextmanager
def _stand_in_for_torchvision() -> Iterator[None]:
    """Let a file import torchvision, which it needs only to save pictures, where it is absent."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    names = ("torchvision", "torchvision.utils")
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision"].utils = sys.modules["torchvision.utils"]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
