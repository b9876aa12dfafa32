"""Makes the README's pictures with the shipped weights: every prompt once, seed 0, nothing picked.

python data/gallery.py
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from minisora import Sora, video
from minisora.world import world_of_prompt

PROMPTS = [
    "a large yellow star moving down and left on a navy background",
    "a small red circle moving right on a black background",
    "a green triangle growing on a pink background",
    "a large white cross bouncing on a navy background",
    "a small cyan circle moving up on a gray background",
    "a blue triangle shrinking on a pink background",
    "a small orange star moving up and right on a gray background",
    "a large purple square standing still on a black background",
]
TWO = [
    "a red circle moving left above a blue square standing still on a black background",
    "a green star moving up left of a yellow cross moving down on a navy background",
    "a white triangle standing still below a purple star moving right on a gray background",
    "a cyan cross moving down right of a orange circle standing still on a black background",
]
WIDE = "a large yellow star moving down on a navy background"  # sampled at every trained size
START = "a small cyan circle moving right on a gray background"
SHORT = ["red circle", "star moving left", "a growing cross", "blue triangle above white star"]
FOLDER = Path(__file__).parent / "gallery"


def main() -> None:
    sora = Sora.from_pretrained(device="cpu")
    FOLDER.mkdir(exist_ok=True)
    write(sora, "clips", PROMPTS)
    write(sora, "two", TWO)
    write_sizes(sora)
    write_modes(sora)
    write(sora, "short", sora.upsampler.complete(SHORT, torch.Generator().manual_seed(0)))


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def write_sizes(sora: Sora) -> None:
    """One prompt at every trained size, side by side."""
    clips = [
        sora(WIDE, height=high, width=wide, generator=noise())[0]
        for high, wide in sora.trained_on["sizes"]
    ]
    tall = max(clip.shape[1] for clip in clips)
    padded = [
        np.pad(c, [(0, 0), (tall - c.shape[1], 0), (0, 4), (0, 0)], constant_values=255)
        for c in clips
    ]
    video.write(FOLDER / "sizes.gif", np.concatenate(padded, axis=2), fps=8, scale=3)
    print(WIDE, *(size for size in sora.trained_on["sizes"]), sep="\n  ")


def write_modes(sora: Sora) -> None:
    """Every way to go on from a clip; given frames have a blue border."""
    clip = sora(START, generator=noise())[0]  # (17, 32, 32, 3)
    loop = clip[:16]
    two = sora(TWO[0], generator=noise())[0]
    mask = np.zeros(two.shape[1:3], dtype=bool)
    mask[: len(mask) // 2] = True  # the upper half
    made = {
        "animate": (sora.animate(clip[0], START, generator=noise()), [0]),
        "extend": (sora.extend(clip[:9], START, 25, generator=noise()), range(9)),
        "extend backward": (
            sora.extend(clip[-8:], START, 25, "backward", generator=noise()), range(17, 25)
        ),
        "connect": (
            sora.connect(clip[:9], clip[-4:], START, 21, generator=noise()),
            [*range(9), *range(17, 21)],
        ),
        "loop": (sora.loop(loop, START, generator=noise()), range(16)),
        "edit": (sora.edit(clip, "make it red, on pink", generator=noise()), []),
        "inpaint": (sora.inpaint(two, mask, "a white star standing still above a blue square "
            "standing still on a black background", generator=noise()), []),
    }  # fmt: skip
    shown = [bordered(frames[0], given) for frames, given in made.values()]
    video.write(FOLDER / "modes.gif", video.tile(np.stack(shown), columns=7)[::2], fps=4, scale=3)
    print(START, *made, sep="\n  ")


def bordered(clip: np.ndarray, given: Iterable[int], length: int = 57) -> np.ndarray:
    """A clip, repeated up to `length` frames, with a blue border around given ones."""
    clip = np.pad(clip, [(0, 0), (2, 2), (2, 2), (0, 0)], constant_values=255)
    for frame in given:
        inside = clip[frame, 2:-2, 2:-2].copy()
        clip[frame] = (60, 130, 240)
        clip[frame, 2:-2, 2:-2] = inside
    repeats = -(-length // len(clip))
    return np.concatenate([clip] * repeats)[:length]


def write(sora: Sora, name: str, prompts: list[str]) -> None:
    """One batch as an animation, and what the oracle reads in it."""
    clips = sora(prompts, generator=torch.Generator().manual_seed(0))  # (B, T, H, W, 3)
    video.write(FOLDER / f"{name}.gif", video.tile(clips, columns=4), fps=8, scale=3)
    for prompt, clip in zip(prompts, clips, strict=True):
        world = world_of_prompt(prompt)
        read = world.describe(clip)
        flaw = "" if read["clean"] else " (not clean)"
        print(f"{prompt}\n  the oracle sees {world.caption(read)}{flaw}")


if __name__ == "__main__":
    main()
