"""`minisora doctor`: what this machine has, and a test clip in every format."""

import importlib.metadata
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

import minisora
from minisora.device import best_device, fast_bfloat16

PACKAGES = ("torch", "lightning", "einops", "av", "numpy", "safetensors", "tokenizers")


def report(weights: str | None) -> None:
    """Prints what the machine has; makes a clip, and writes and reads it in every format."""
    python = f"Python {platform.python_version()}, {platform.platform()}"
    print(f"minisora {minisora.__version__} on {python}")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    print(f"packages   {', '.join(versions)}")
    device = best_device()
    name = f" ({torch.cuda.get_device_name()})" if device.type == "cuda" else ""
    print(f"device     {device}{name}")
    fast = "bfloat16" if fast_bfloat16(device.type) else "float32"
    print(f"precision  {fast} is the fast one here")
    print(f"threads    {torch.get_num_threads()}")

    sora = minisora.Sora.from_pretrained(weights)
    prompt = "a large yellow star moving down and left on a navy background"
    clip = sora(prompt, generator=torch.Generator().manual_seed(0))[0]
    print(f'test clip  "{prompt}"')
    print(f"           the oracle sees {minisora.world.caption(minisora.world.describe(clip))}")
    seconds = {count: statistics.median(timed(sora, prompt, count)) for count in (1, 16)}
    print("sampling   " + ", ".join(f"{n} at once {s:.2f} s" for n, s in seconds.items()))
    for name, make in kinds(sora, prompt, clip).items():
        print(f"  {name:26s} {statistics.median(timed_calls(make)):.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        for suffix in minisora.video.SUFFIXES:
            path = minisora.video.write(Path(folder) / f"clip{suffix}", clip, scale=4)
            size, count = path.stat().st_size / 1000, len(minisora.video.read(path))
            print(f"  {suffix:6s} {size:.0f} kB, {count} frames read back")


def kinds(sora: "minisora.Sora", prompt: str, clip: np.ndarray) -> dict[str, Callable[[], object]]:
    """What can be made, by name: a clip of each size, and each mode that goes on from `clip`."""
    half = clip[: 1 + len(clip) // 2]  # (T, H, W, 3)
    made: dict[str, Callable[[], object]] = {"an image": lambda: sora(prompt, 1)}
    for height, width in sora.trained_on["sizes"]:
        made[f"{height} x {width}"] = partial(sora, prompt, height=height, width=width)
    if "animate" in sora.trained_on["modes"]:
        made["animate an image"] = lambda: sora.animate(clip[0], prompt)
        made["extend by half"] = lambda: sora.extend(half, prompt, len(clip))
        made["connect two clips"] = lambda: sora.connect(half, half, prompt)
        made["loop of 32 frames"] = lambda: sora.loop(clip[:16], prompt, 32)
        made["edit"] = lambda: sora.edit(clip, prompt, source_prompt=prompt)
        made["ten seconds"] = lambda: [*sora.stream(prompt, 81)]
    return made


def timed(sora: "minisora.Sora", prompt: str, count: int) -> list[float]:
    """Seconds that `count` clips take, for each of three repeats."""
    return timed_calls(lambda: sora([prompt] * count))


def timed_calls(make: Callable[[], object], repeats: int = 3) -> list[float]:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        make()
        seconds.append(time.perf_counter() - started)
    return seconds
