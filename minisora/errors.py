"""InputError, the exception for mistakes that the user can fix, and checks that raise it.

The command line prints its message without a traceback and ends with exit code 2.
"""

from typing import Any


class InputError(ValueError):
    """Bad input. The message is one sentence: what is wrong, the numbers, and what to do."""


def check_counts(least: int, **counts: int) -> None:
    """Raises InputError if a number is smaller than `least`; the message has its keyword."""
    for name, count in counts.items():
        if count < least:
            raise InputError(f"{name} must be {least} or more, got {count}")


def check_seed(seed: int) -> None:
    """Raises InputError unless PyTorch and NumPy both accept the seed."""
    # NumPy refuses negative seeds, PyTorch refuses those beyond 64 bits
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must be from 0 to 2^63 - 1, got {seed}")


def check_shares(**shares: float) -> None:
    """Raises InputError if a number is not between 0 and 1; the message has its keyword."""
    for name, share in shares.items():
        if not 0 <= share <= 1:  # false for NaN too
            raise InputError(f"{name} is a share, from 0 to 1, got {share}")


def check_frames(frames: Any, shape: str, side: int = 1) -> None:
    """Raises InputError unless an array or tensor holds uint8 RGB frames.

    `shape` names the axes, such as "(T, H, W, 3)". Each frame needs `side` pixels or more along
    both of its sides.
    """
    is_rgb = frames.ndim == shape.count(",") + 1 and frames.shape[-1] == 3
    # the default serves arrays of one axis, which have no sides
    is_large = 0 not in frames.shape and min(frames.shape[-3:-1], default=0) >= side
    # "uint8" in NumPy, "torch.uint8" in PyTorch
    if not (is_rgb and is_large and str(frames.dtype).endswith("uint8")):
        least = f" of at least {side} x {side} pixels" if side > 1 else ""
        got = f"{frames.dtype} {tuple(frames.shape)}"
        raise InputError(f"frames must be uint8 {shape}{least}, got {got}")
