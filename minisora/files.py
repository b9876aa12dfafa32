"""Files appear whole or not at all, and what cannot be written is said before the work is done."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minisora.errors import InputError


def check_writable(path: str | Path) -> Path:
    """The path, if a file can be written there. Raises InputError if not."""
    path = Path(path)
    place = path.resolve()  # a link stays, and what it leads to is written
    if place.exists() and not place.is_file():
        raise InputError(
            f"cannot write {path}: it is {'a folder' if place.is_dir() else 'no file'}"
        )
    if not place.parent.is_dir():
        raise InputError(f"cannot write {path}: {place.parent} is no folder")
    if not all(os.access(each, os.W_OK) for each in (place.parent, place) if each.exists()):
        raise InputError(f"cannot write {path}: there is no permission to")
    return path


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A path beside this one to write to. What was written is moved to its place at the end; of
    what fails nothing is left."""
    place = Path(path).resolve()
    partial = place.with_name(f".{place.stem}.partial{place.suffix.lower()}")
    try:
        yield partial
        os.replace(partial, place)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: str | Path, text: str) -> None:
    with whole(path) as partial:
        partial.write_text(text)
