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
FOLDER = Path(__file__).parent / "gallery"

if __name__ == "__main__":
    clips = Sora.from_pretrained(device="cpu")(PROMPTS, generator=torch.Generator().manual_seed(0))
    FOLDER.mkdir(exist_ok=True)
    video.write(FOLDER / "clips.gif", video.tile(clips, columns=4), fps=8, scale=3)
    strips = np.concatenate([video.tile(clip[::2, None], columns=9) for clip in clips], axis=1)
    video.write(FOLDER / "strips.png", strips, scale=2)
    for prompt, clip in zip(PROMPTS, clips, strict=True):
        read = world.describe(clip)
        print(
            f"{prompt}\n  the oracle sees {world.caption(read)}{'' if read['clean'] else ' (not clean)'}"
        )
