"""Makes the README's pictures with the shipped weights: every prompt once, seed 0, nothing picked.

python data/gallery.py
"""

from pathlib import Path

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
IMAGES = [
    "a small blue star on a gray background",
    "a large orange square on a navy background",
    "a large green circle on a pink background",
    "a small white triangle on a black background",
    "a large purple cross on a gray background",
    "a small yellow square on a navy background",
]
SHORT = ["red circle", "star moving left", "a growing cross", "blue triangle above white star"]
FOLDER = Path(__file__).parent / "gallery"


def main() -> None:
    sora = Sora.from_pretrained(device="cpu")
    FOLDER.mkdir(exist_ok=True)
    write(sora, "clips", PROMPTS)
    write(sora, "two", TWO)
    images = sora(IMAGES, num_frames=1, generator=torch.Generator().manual_seed(0))
    video.write(FOLDER / "images.png", video.tile(images, columns=6), scale=3)
    print(*IMAGES, sep="\n")
    write(sora, "short", sora.upsampler.complete(SHORT, torch.Generator().manual_seed(0)))


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
