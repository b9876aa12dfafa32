"""Files appear whole or not at all, and what cannot be written is said before the work is done."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minisora.errors import InputError


def check_writable(path: str | Path) -> Path:
    """Returns the path if a file can be written there. Raises InputError if not."""
    path = Path(path)
    target = path.resolve()  # a link stays a link: the file behind it is written
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "not a regular file"
        raise InputError(f"cannot write {path}: it is {kind}")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {path}: {target.parent} is not a folder")
    needed = [each for each in (target.parent, target) if each.exists()]
    if not all(os.access(each, os.W_OK) for each in needed):
        raise InputError(f"cannot write {path}: there is no permission to")
    return path


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a path beside the target to write to, and moves the file into place at the end.

    If the block fails, nothing is left behind and the old file stays.
    """
    target = Path(path).resolve()
    partial = target.with_name(f".{target.stem}.partial{target.suffix.lower()}")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(text)
