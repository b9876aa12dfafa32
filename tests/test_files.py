"""Files appear whole, under unique partial names, and one process at a time holds a place."""

import os
from pathlib import Path

import pytest

from minisora import InputError
from minisora.files import atomic, locked, make_folder, write_text


def test_two_writers_of_one_file_do_not_share_a_partial_one(tmp_path: Path) -> None:
    target = tmp_path / "clip.gif"
    with atomic(target) as first, atomic(target) as second:
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"  # the outer block ends last


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def test_names_of_255_letters_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / ("a" * 251 + ".txt")
    write_text(target, "text")
    assert target.read_text() == "text"


def test_a_place_that_is_held_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(InputError, match="written by another process")
    with locked(tmp_path / "run"), refused, locked(tmp_path / "run"):
        pass


def test_a_place_is_free_again_and_no_lock_is_left(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "run"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_is_refused() -> None:
    with pytest.raises(InputError, match="cannot write to the folder /dev/null/run"):
        make_folder("/dev/null/run")


def test_files_can_be_read_by_others_if_the_umask_says_so(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "a.txt", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644
