"""minisora: the Sora report rebuilt small. `Sora` makes clips from prompts; `world` is the toy
universe it was trained on."""

import importlib
from typing import TYPE_CHECKING, Any

from minisora import video, world
from minisora.errors import InputError

if TYPE_CHECKING:
    from minisora.pipeline import Sora

__all__ = ["InputError", "Sora", "video", "world"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads `Sora`, and with it torch, when it is first asked for."""
    if name == "Sora":
        return importlib.import_module("minisora.pipeline").Sora
    raise AttributeError(f"module 'minisora' has no attribute {name!r}")
