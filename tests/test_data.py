"""Training data: batches are functions of their step, and views show what they promise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shake
from lightning import Trainer

from minisora import InputError, draws, weights, world
from minisora.data import Captions, ClipData, Latents, Pixels, PromptData, batch_indices
from minisora.vae import VAE, to_frames, to_pixels
from minisora.world import language


@pytest.fixture
def vae_folder(tmp_path: Path) -> str:
    """The bundle of an untrained VAE that encodes 4 channels, each 8 x 8 pixels."""
    weights.save(tmp_path, {}, vae=shake(VAE(channels=4, space=8, width=16, depth=1)))
    return str(tmp_path)


def prepared(data: ClipData) -> ClipData:
    data.setup("fit")
    return data


# Batches


def test_pixels_survive_the_round_trip() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 8, 3), np.uint8)
    assert np.array_equal(to_frames(to_pixels(frames)), frames)


def dealt(steps: range) -> list[int]:
    """The clips of 40 that two ranks get in these steps, four a batch: five steps are an epoch."""
    return [
        index
        for step in steps
        for rank in range(2)
        for index in batch_indices(40, 4, 0, step, rank, ranks=2)
    ]


@pytest.mark.parametrize("steps", [range(5), range(5, 10)], ids=["first epoch", "second epoch"])
def test_an_epoch_deals_every_clip_once_over_all_ranks(steps: range) -> None:
    assert sorted(dealt(steps)) == list(range(40))


def test_every_epoch_has_another_order() -> None:
    assert dealt(range(5)) != dealt(range(5, 10))


def test_draws_differ_by_seed_step_rank_and_stream_alone() -> None:
    def draw(name: str, *key: int) -> float:
        return torch.rand(1, generator=draws.generator(name, *key)).item()

    keys = [
        ("training", 0, 5, 1),
        ("training", 0, 6, 1),
        ("training", 0, 5, 2),
        ("training", 1, 5, 1),
        ("length", 0, 5, 1),
    ]
    assert draw(*keys[0]) == draw(*keys[0])
    assert len({draw(*key) for key in keys}) == 5


def test_batches_are_a_function_of_the_step() -> None:
    data = prepared(ClipData(Pixels(), clips=20, batch_size=4))
    loader = iter(data.train_dataloader())
    for step in range(3):
        loaded = next(loader)
        assert loaded["step"] == step
        assert torch.equal(loaded["video"], data.batch(step)["video"])


def test_prompts_are_a_function_of_the_step() -> None:
    data = PromptData(batch_size=8)
    assert data.batch(3) == data.batch(3)
    assert data.batch(3) != data.batch(4)


def test_steps_are_those_of_the_optimizer(vae_folder: str) -> None:
    """With gradients gathered from two batches, two short steps are four batches."""
    view = Captions(vae_folder, shorter=0.0, short_steps=2)
    data = prepared(ClipData(view, clips=8, batch_size=8))

    def short_batches() -> list[bool]:
        """Whether each batch, an epoch of its own, has the short captions."""
        captions = (data.batch(step)["captions"] for step in range(5))
        return [sorted(each) == sorted(view.short_captions) for each in captions]

    assert short_batches() == [True, True, False, False, False]
    data.trainer = Trainer(accumulate_grad_batches=2, logger=False)
    assert short_batches() == [True, True, True, True, False]


# Views


@pytest.fixture
def shorter(vae_folder: str, in_float32: None) -> ClipData:
    """Every batch is of clips that are cut."""
    return prepared(ClipData(Latents(vae_folder, shorter=1.0), clips=16, batch_size=16))


def step_of_length(data: ClipData, groups: int) -> int:
    """The first step whose clips have this many groups of frames."""
    lengths = (data.batch(step)["latents"].shape[2] for step in range(60))
    return next(step for step, length in enumerate(lengths) if length == groups)


def test_shorter_clips_have_every_length_but_the_whole(shorter: ClipData) -> None:
    lengths = {shorter.batch(step)["latents"].shape[2] for step in range(60)}
    assert lengths == {1, 2, 3, 4}


@pytest.mark.parametrize("groups", [1, 3])
def test_shorter_clips_are_the_first_latents(shorter: ClipData, groups: int) -> None:
    step = step_of_length(shorter, groups)
    whole = shorter.view.latents[shorter.indices(step)].float()
    assert torch.equal(shorter.batch(step)["latents"], whole[:, :, :groups])


def test_the_first_latent_alone_is_an_image(shorter: ClipData) -> None:
    step = step_of_length(shorter, 1)
    image = world.clip(0, int(shorter.indices(step)[0]), num_frames=1)
    encoded = shorter.view.vae.encode(to_pixels(image.frames[None]))
    assert torch.allclose(shorter.batch(step)["latents"][0], encoded[0], atol=0.03)


def test_an_image_has_a_caption_without_motion(shorter: ClipData) -> None:
    step = step_of_length(shorter, 1)
    image = world.clip(0, int(shorter.indices(step)[0]), num_frames=1)
    assert shorter.batch(step)["captions"][0] == image.caption


def test_captions_are_ordered_at_first(vae_folder: str) -> None:
    view = Latents(vae_folder, shorter=0.0, ordered_steps=1)
    data = prepared(ClipData(view, {"pairs": 1.0}, clips=16, batch_size=16))
    ordered, free = (data.batch(step)["captions"] for step in range(2))
    assert ordered == [language.in_order(caption) for caption in ordered]
    assert free != [language.in_order(caption) for caption in free]


@pytest.fixture
def captioned(vae_folder: str) -> ClipData:
    """The first step has short captions, the second rich ones."""
    view = Captions(vae_folder, shorter=0.0, short_steps=1)
    return prepared(ClipData(view, {"pairs": 0.3, "shapes": 0.7}, clips=16, batch_size=16))


def test_a_captioner_sees_short_captions_first(captioned: ClipData) -> None:
    assert not any(" on a " in caption for caption in captioned.batch(0)["captions"])


def test_a_captioner_sees_rich_captions_later(captioned: ClipData) -> None:
    assert all(" on a " in caption for caption in captioned.batch(1)["captions"])


def test_short_captions_are_shorter(captioned: ClipData) -> None:
    short, rich = (captioned.batch(step)["captions"] for step in range(2))
    assert max(map(len, short)) < max(map(len, rich))


# What a model is trained on


def test_the_words_are_those_of_the_worlds() -> None:
    data = ClipData(Pixels(), {"pairs": 0.5, "shapes": 0.5}, clips=1)
    assert data.words == sorted(world.get("shapes").words | world.get("pairs").words)


@pytest.mark.parametrize(
    ("share", "names"),
    [(0.0, ["shapes"]), (0.5, ["pairs", "shapes"]), (1.0, ["pairs"])],
)
def test_a_world_without_a_share_is_not_trained_on(share: float, names: list[str]) -> None:
    data = ClipData(Pixels(), {"pairs": share, "shapes": 1 - share}, clips=1)
    assert data.trained_on["worlds"] == names


@pytest.mark.parametrize(
    ("share", "durations"), [(0.0, [9]), (0.2, [1, 5, 9])], ids=["whole", "shorter too"]
)
def test_the_durations_are_those_of_the_view(
    vae_folder: str, share: float, durations: list[int]
) -> None:
    data = ClipData(Latents(vae_folder, shorter=share), clips=1, num_frames=9)
    assert data.trained_on["durations"] == durations


def test_the_size_is_height_and_width() -> None:
    data = ClipData(Pixels(), clips=1, height=32, width=48)
    assert data.trained_on["sizes"] == [[32, 48]]


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 16}, r"1 \+ 4k, got 16: the nearest is 17"),
        ({"seed": -1}, r"seed must be from 0 to 2\^63 - 1, got -1"),
        ({"clips": 0}, "clips must be 1 or more"),
        ({"worlds": {"room": 1.0}}, "no world 'room'"),
    ],
    ids=["frames", "seed", "clips", "world"],
)
def test_impossible_data_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClipData(Pixels(), **arguments)


def test_frames_that_patches_do_not_divide_are_refused(vae_folder: str) -> None:
    with pytest.raises(InputError, match="multiples of 8, got 36 and 32"):
        ClipData(Latents(vae_folder), height=36)
