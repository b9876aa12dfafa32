"""Makes the README's pictures with the shipped weights: every prompt once, seed 0, nothing picked.

python data/gallery.py
"""

from pathlib import Path

import numpy as np
import torch

from minisora import Sora, video, world

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
FOLDER = Path(__file__).parent / "gallery"


def main() -> None:
    sora = Sora.from_pretrained(device="cpu")
    FOLDER.mkdir(exist_ok=True)
    for name, prompts, scene in (("clips", PROMPTS, world), ("two", TWO, world.pairs)):
        clips = sora(prompts, generator=torch.Generator().manual_seed(0))
        video.write(FOLDER / f"{name}.gif", video.tile(clips, columns=4), fps=8, scale=3)
        strips = np.concatenate([video.tile(clip[::2, None], columns=9) for clip in clips], axis=1)
        video.write(FOLDER / f"{name}.png", strips, scale=2)
        for prompt, clip in zip(prompts, clips, strict=True):
            read = scene.describe(clip)
            seen = f"{scene.caption(read)}{'' if read['clean'] else ' (not clean)'}"
            print(f"{prompt}\n  the oracle sees {seen}")


if __name__ == "__main__":
    main()
