"""minisora: the Sora report rebuilt small. `Sora` makes clips from prompts, `Captioner` says what
clips show; `world` is the toy universe they were trained on."""

import importlib
from typing import TYPE_CHECKING, Any

from minisora import video, world
from minisora.errors import InputError

if TYPE_CHECKING:
    from minisora.captioner import Captioner
    from minisora.pipeline import Sora
    from minisora.upsampler import Upsampler

__all__ = ["Captioner", "InputError", "Sora", "Upsampler", "video", "world"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads a model's class, and with it torch, when it is first asked for."""
    rooms = {"Sora": "pipeline", "Captioner": "captioner", "Upsampler": "upsampler"}
    if name in rooms:
        return getattr(importlib.import_module(f"minisora.{rooms[name]}"), name)
    raise AttributeError(f"module 'minisora' has no attribute {name!r}")
