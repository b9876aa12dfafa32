"""minisora: the Sora report rebuilt small. `Sora` makes clips from prompts, `Captioner` describes
clips in words; `world` holds the toy worlds they were trained on."""

import importlib
from typing import TYPE_CHECKING, Any

from minisora import video, world
from minisora.errors import InputError

if TYPE_CHECKING:
    from minisora.captioner import Captioner
    from minisora.sora import Sora
    from minisora.upsampler import Upsampler

__all__ = ["Captioner", "InputError", "Sora", "Upsampler", "video", "world"]
__version__ = "0.1.0"

MODULES = {"Sora": "sora", "Captioner": "captioner", "Upsampler": "upsampler"}


def __getattr__(name: str) -> Any:
    """Imports a model's class, and with it torch, at its first use."""
    if name in MODULES:
        return getattr(importlib.import_module(f"minisora.{MODULES[name]}"), name)
    raise AttributeError(f"module 'minisora' has no attribute {name!r}")
