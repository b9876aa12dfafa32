"""The device to compute on and its fastest precision: CUDA, else MPS, else the CPU."""

import ctypes
import functools
import platform
from pathlib import Path

import torch


def best_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@functools.cache
def fast_bfloat16(device_type: str) -> bool:
    """Whether bfloat16 is faster than float32 on this machine.

    True on CUDA cards that compute it in hardware, and on CPUs with AMX or AMD's AVX-512 BF16.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    info = Path("/proc/cpuinfo")
    if device_type != "cpu" or not info.exists():  # MPS, or no Linux
        return False
    text = info.read_text()
    # Intel's AVX-512 BF16 without AMX had 0.6 times the speed of float32
    return "amx_bf16" in text or ("avx512_bf16" in text and "AuthenticAMD" in text)


def autocast(device: torch.device) -> torch.autocast:
    """A context that computes in bfloat16 where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device.type))


def keep_memory() -> None:
    """Lets glibc keep freed memory for the next step instead of returning it to Linux.

    A training step takes up to 12% less time with it (configs/experiments/speed.md).
    """
    if platform.system() == "Linux":
        try:
            mallopt = ctypes.CDLL("libc.so.6").mallopt
        except (OSError, AttributeError):  # another C library, such as musl
            return
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-2, 64 << 20)  # M_TOP_PAD
