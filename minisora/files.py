"""Files appear whole or not at all, and what cannot be written is said before the work is done."""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from minisora.errors import InputError

PARTIAL = ".partial"  # in the name of a file that is being written


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


def make_folder(path: str | Path) -> Path:
    """Returns the folder, created if need be. Raises InputError if files cannot be written in it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to the folder {path}: {error.strerror}") from None
    check_writable(path / "any")
    return path


@contextmanager
def writing(path: str | Path, partial: Path | None = None) -> Iterator[None]:
    """Raises InputError that names the file, if it cannot be written in the block: PyTorch's and
    Python's errors of a full disk name none."""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, str(partial)) or error.errno == errno.EPIPE:
            raise  # of another file
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a path beside the target to write to, and moves the file into place at the end.

    If the block fails, nothing is left behind and the old file stays. The name is unique, so
    several processes may write one target: the last one wins, whole. Raises InputError if the disk
    is full or the folder cannot be written to.
    """
    target = Path(path).resolve()
    partial = target.with_name(f".{secrets.token_hex(8)}{PARTIAL}{target.suffix.lower()}")
    try:
        with writing(path, partial):
            yield partial
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())  # the name must not be on the disk before the content is
            os.replace(partial, target)
    finally:
        with suppress(OSError):  # on a disk that can no longer be written, say
            partial.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Removes what killed writers left in a folder that nobody else writes to."""
    for partial in folder.glob(f".*{PARTIAL}*"):
        partial.unlink(missing_ok=True)  # a child of the killed one may be at its end


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Holds `path` (a file or a folder, there or not) for this process while the block runs.

    Raises InputError if another process holds it.
    """
    path = Path(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{path} is being written by another process: wait for it, or name another"
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def read_lines(path: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The lines of a .jsonl file. Raises InputError, naming the line, if one lacks a text."""
    rows: list[dict[str, Any]] = []
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte order mark is no part of it
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as text in UTF-8: {error}") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            texts = [row[key] for key in keys]
        except (ValueError, KeyError, TypeError, RecursionError):
            texts = [None]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"{path}, line {number}: no JSON with texts for {' and '.join(keys)}")
        rows.append(row)
    return rows
