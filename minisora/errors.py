"""The one exception that is the user's to mend: the command line prints it and ends with exit code
2."""

from typing import Any


class InputError(ValueError):
    """Bad input, said in one clear sentence with the numbers and what to do."""


def check_counts(least: int, **counts: int) -> None:
    """Raises InputError, naming it, if one of the numbers is smaller than `least`."""
    for name, count in counts.items():
        if count < least:
            raise InputError(f"{name} must be {least} or more, got {count}")


def check_seed(seed: int) -> None:
    """Raises InputError if PyTorch and NumPy do not both take the seed."""
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must be from 0 to 2^63 - 1, got {seed}")


def check_shares(**shares: float) -> None:
    """Raises InputError, naming it, if one of the numbers is not between 0 and 1."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InputError(f"{name} is a share, from 0 to 1, got {share}")


def check_frames(frames: Any, shape: str, side: int = 1) -> None:
    """Raises InputError if an array or tensor does not hold uint8 frames of `shape`, such as "(T, H,
    W, 3)", with sides of at least `side` pixels."""
    fits = frames.ndim == shape.count(",") + 1 and frames.shape[-1] == 3
    whole = 0 not in frames.shape and min(frames.shape[-3:-1], default=0) >= side
    if not (fits and whole and str(frames.dtype).endswith("uint8")):
        least = f" of at least {side} x {side} pixels" if side > 1 else ""
        got = f"{frames.dtype} {tuple(frames.shape)}"
        raise InputError(f"frames must be uint8 {shape}{least}, got {got}")
