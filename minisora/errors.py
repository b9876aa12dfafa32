"""InputError, the exception for mistakes that the user can fix, and checks that raise it."""

import sys
from typing import Any


class InputError(ValueError):
    """Bad input: one sentence with the numbers. The command line prints it and exits with 2."""


class Interrupted(Exception):
    """A signal ended the work. The command line prints the sentence and exits with `code`."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def check_numbers(low: float, high: float, **numbers: float) -> None:
    """Raises InputError if a number is not from `low` to `high`; the message has its keyword."""
    for name, number in numbers.items():
        if not low <= number <= high:  # false for NaN too
            raise InputError(f"{name} must be from {low:g} to {high:g}, got {number}")


def check_counts(least: int, most: int = 10**9, **counts: int) -> None:
    """Raises InputError if a number is not from `least` to `most`; the message has its keyword."""
    for name, count in counts.items():
        if count < least:
            raise InputError(f"{name} must be {least} or more, got {count}")
        if count > most:
            raise InputError(f"{name} must be at most {most}, got {count}")


def check_sizes(**sizes: int) -> None:
    """Raises InputError for sizes of a network that are below 1 or absurd: they would fill the
    memory. `depth` and `heads` end at 1,000, all others at 16,384."""
    for name, size in sizes.items():
        check_counts(1, 1000 if name in ("depth", "heads") else 2**14, **{name: size})


def check_seed(seed: int) -> None:
    """Raises InputError for seeds that NumPy (negative) or PyTorch (too large) refuses."""
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must be from 0 to 2^63 - 1, got {seed}")


def check_shares(**shares: float) -> None:
    """Raises InputError if a number is not between 0 and 1; the message has its keyword."""
    for name, share in shares.items():
        if not 0 <= share <= 1:  # false for NaN too
            raise InputError(f"{name} is a share, from 0 to 1, got {share}")


def check_frames(frames: Any, shape: str, side: int = 1) -> None:
    """Raises InputError unless frames are uint8 RGB with axes `shape`, such as "(T, H, W, 3)", and
    sides of at least `side` pixels."""
    is_rgb = frames.ndim == shape.count(",") + 1 and frames.shape[-1] == 3
    # the default serves arrays of one axis, which have no sides
    is_large = 0 not in frames.shape and min(frames.shape[-3:-1], default=0) >= side
    # "uint8" in NumPy, "torch.uint8" in PyTorch
    if not (is_rgb and is_large and str(frames.dtype).endswith("uint8")):
        least = f" of at least {side} x {side} pixels" if side > 1 else ""
        got = f"{frames.dtype} {tuple(frames.shape)}"
        raise InputError(f"frames must be uint8 {shape}{least}, got {got}")


def outside() -> int:
    """The `stacklevel` for `warnings.warn` that points at the user's line: the first one that is
    neither ours nor PyTorch's."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in (
        "minisora",
        "torch",
    ):
        frame, level = frame.f_back, level + 1
    return level
