"""minisora: the Sora report rebuilt small. `Sora` makes clips from prompts, `Captioner` says what
clips show; `world` is the toy universe they were trained on."""

import importlib
from typing import TYPE_CHECKING, Any

from minisora import video, world
from minisora.errors import InputError

if TYPE_CHECKING:
    from minisora.captioner import Captioner
    from minisora.pipeline import Sora

__all__ = ["Captioner", "InputError", "Sora", "video", "world"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads `Sora` or `Captioner`, and with it torch, when it is first asked for."""
    rooms = {"Sora": "minisora.pipeline", "Captioner": "minisora.captioner"}
    if name in rooms:
        return getattr(importlib.import_module(rooms[name]), name)
    raise AttributeError(f"module 'minisora' has no attribute {name!r}")
