from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shake
from lightning import Trainer

from minisora import InputError, weights, world
from minisora.data import CaptionData, ClipData, LatentData, batch_indices, generator
from minisora.pipeline import to_frames, to_pixels
from minisora.vae import VAE


def test_pixels_survive_the_round_trip() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 8, 3), np.uint8)
    assert np.array_equal(to_frames(to_pixels(frames)), frames)


def test_an_epoch_deals_every_clip_once_over_all_ranks() -> None:
    dealt = [
        i
        for step in range(5)
        for rank in range(2)
        for i in batch_indices(40, 4, 0, step, rank, ranks=2)
    ]
    assert sorted(dealt) == list(range(40))
    again = [
        i
        for step in range(5, 10)
        for rank in range(2)
        for i in batch_indices(40, 4, 0, step, rank, ranks=2)
    ]
    assert sorted(again) == list(range(40)) and again != dealt


def test_draws_differ_by_step_rank_and_stream_alone() -> None:
    def draw(*key: int) -> float:
        return torch.rand(1, generator=generator(*key)).item()

    assert draw(0, 5, 1) == draw(0, 5, 1)
    assert len({draw(0, 5, 1), draw(0, 6, 1), draw(0, 5, 2), draw(1, 5, 1), draw(0, 5, 1, 1)}) == 5


def test_batches_are_a_function_of_the_step() -> None:
    data = ClipData(clips=20, batch_size=4)
    data.setup("fit")
    loader = iter(data.train_dataloader())
    first = [next(loader)["video"] for _ in range(3)]
    assert all(torch.equal(video, data.batch(step)["video"]) for step, video in enumerate(first))


def test_shorter_clips_are_the_first_latents_and_one_is_an_image(tmp_path, in_float32) -> None:
    vae = shake(VAE(channels=4, space=8, width=16, depth=1))
    weights.save(tmp_path, {}, vae=vae)
    data = LatentData(str(tmp_path), clips=16, batch_size=16, shorter=1.0)
    data.setup("fit")
    lengths = {data.batch(step)["latents"].shape[2]: step for step in range(60)}
    assert set(lengths) == {1, 2, 3, 4}
    image = data.batch(lengths[1])
    index = data.indices(lengths[1])[0]
    true = world.clip(0, int(index), num_frames=1)
    assert image["captions"][0] == true.caption
    encoded = data.vae.encode(to_pixels(true.frames[None]))
    assert torch.allclose(image["latents"][0], encoded[0], atol=0.03)
    assert data.batch(lengths[3])["latents"].shape[2] == 3


def test_steps_are_those_of_the_optimizer(tmp_path: Path) -> None:
    """Which gathers the gradients of several batches, if asked to."""
    weights.save(tmp_path, {}, vae=VAE(channels=4, space=8, width=16, depth=1))
    data = CaptionData(str(tmp_path), clips=8, batch_size=8, pairs=0.0, shorter=0.0, short_steps=2)
    data.setup("fit")
    short = [sorted(data.short_captions) == sorted(data.batch(k)["captions"]) for k in range(5)]
    data.trainer = Trainer(accumulate_grad_batches=2, logger=False)
    gathered = [sorted(data.short_captions) == sorted(data.batch(k)["captions"]) for k in range(5)]
    assert short == [True, True, False, False, False] and gathered == [True] * 4 + [False]


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"1 \+ 4k, got 16: the nearest is 17"):
        ClipData(num_frames=16)
    with pytest.raises(InputError, match=r"seed must be from 0 to 2\^63 - 1, got -1"):
        ClipData(seed=-1)
