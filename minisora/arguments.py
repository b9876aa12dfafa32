"""What the arguments of several commands have in common: numbers in their bounds, and the weights."""

import argparse
from collections.abc import Callable


def shorten(text: str) -> str:
    return text if len(text) < 100 else f"{text[:60]}...{text[-20:]}"


def number(text: str, least: int, most: int, name: str) -> int:
    """A whole number in its bounds. `name` names the upper one."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        bounds = f"a whole number from {least} to {name}"
        raise argparse.ArgumentTypeError(f"must be {bounds}, got {shorten(text)}")
    return int(text)


def positive(text: str) -> int:
    return number(text, 1, 10**6, "a million")


def seconds(text: str) -> int:
    return number(text, 1, 3600, "3600, an hour")


def seed(text: str) -> int:
    return number(text, 0, 2**63 - 1, "2^63 - 1")


def sides(count: int) -> Callable[[str], tuple[int, ...]]:
    """A type for `count` numbers such as 17x256x256."""

    def read(text: str) -> tuple[int, ...]:
        parts = text.split("x")
        if len(parts) != count:
            raise argparse.ArgumentTypeError(
                f"is {count} numbers with x between them, got {text!r}"
            )
        return tuple(map(positive, parts))

    return read


def folder(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty: name a folder, or leave it out")
    return text


def weights_option(command: argparse.ArgumentParser) -> None:
    text = "as `minisora fit` writes them (default: the shipped ones)"
    command.add_argument("--weights", type=folder, metavar="FOLDER", help=text)
