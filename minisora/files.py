"""Files appear whole or not at all, and what cannot be written is said before the work is done."""

import os
from pathlib import Path

from minisora.errors import InputError


def check_writable(path: str | Path) -> Path:
    """The path, if a file can be written there. Raises InputError if not."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: {path.parent} is no folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: there is no permission to")
    return path


def write_whole(path: str | Path, text: str) -> None:
    """Writes beside the path first, then moves there."""
    partial = Path(path).with_name(f".{Path(path).name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
