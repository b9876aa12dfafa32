"""`Sora`: prompts in, clips out."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from minisora import InputError, Sora, world
from minisora.text import TextEncoder
from minisora.upsampler import Upsampler


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Sampling


def test_a_clip_is_of_bytes_and_has_the_size_of_the_training_clips(tiny_sora: Sora) -> None:
    clip = tiny_sora("a red circle", generator=noise())
    assert clip.shape == (1, 17, 32, 32, 3)
    assert clip.dtype == np.uint8


def test_the_same_seed_gives_the_same_clip(tiny_sora: Sora) -> None:
    a, b = (tiny_sora("a red circle", generator=noise(1)) for _ in range(2))
    assert np.array_equal(a, b)


def test_another_seed_gives_another_clip(tiny_sora: Sora) -> None:
    a, b = (tiny_sora("a red circle", generator=noise(seed)) for seed in (1, 2))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("frames", [1, 2, 5, 12, 17])
def test_any_number_of_frames(tiny_sora: Sora, frames: int) -> None:
    clips = tiny_sora(["red circle", "blue star"], num_frames=frames, generator=noise())
    assert clips.shape == (2, frames, 32, 32, 3)


def test_trimmed_frames_are_those_of_the_longer_clip(tiny_sora: Sora) -> None:
    shorter, longer = (
        tiny_sora("red circle", num_frames=frames, generator=noise()) for frames in (10, 13)
    )
    assert np.array_equal(shorter, longer[:, :10])


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "blue star"},
        {"guidance_scale": 5.0},
        {"negative_prompt": "blue star"},
        {"num_inference_steps": 4},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_argument_steers(tiny_sora: Sora, change: dict) -> None:
    base = tiny_sora("red circle", generator=noise())
    changed = tiny_sora(**({"prompt": "red circle"} | change), generator=noise())
    assert not np.array_equal(changed, base)


def test_without_guidance_the_negative_prompt_does_nothing(tiny_sora: Sora) -> None:
    plain, steered = (
        tiny_sora("red circle", guidance_scale=1.0, negative_prompt=negative, generator=noise())
        for negative in ("", "star")
    )
    assert np.array_equal(plain, steered)


def test_the_default_shape_is_that_of_the_longest_training_clips(tiny_sora: Sora) -> None:
    tiny_sora.trained_on = tiny_sora.trained_on | {"durations": [1, 5], "sizes": [[16, 24]]}
    assert tiny_sora.default_shape == (5, 16, 24)


def test_the_default_length_is_the_usual_one_if_the_weights_say_it(tiny_sora: Sora) -> None:
    tiny_sora.defaults = tiny_sora.defaults | {"num_frames": 9}
    assert tiny_sora.default_shape == (9, 32, 32)


def test_the_default_size_is_the_first(tiny_sora: Sora) -> None:
    tiny_sora.trained_on = tiny_sora.trained_on | {"sizes": [[24, 40], [32, 32]]}
    assert tiny_sora.default_shape == (17, 24, 40)


# Sizes and lengths that were not trained on


@pytest.mark.parametrize(
    ("frames", "height", "width", "named"),
    [
        (18, 32, 32, "18 frames"),
        (17, 24, 40, "24 x 40"),
        (33, 8, 56, "8 x 56 or 33 frames"),
    ],
    ids=["length", "size", "both"],
)
def test_a_new_size_or_length_is_made_with_a_warning(
    tiny_sora: Sora, frames: int, height: int, width: int, named: str
) -> None:
    with pytest.warns(UserWarning, match=f"^not trained on {named}: it may look worse$"):
        clip = tiny_sora("a red circle", frames, height, width)
    assert clip.shape == (1, frames, height, width, 3)


def test_a_length_that_ends_inside_a_group_is_no_new_one(tiny_sora: Sora) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tiny_sora("a red circle", num_frames=15).shape[1] == 15


def test_every_size_and_length_of_the_weights_is_no_warning(tiny_sora: Sora) -> None:
    tiny_sora.trained_on = tiny_sora.trained_on | {"sizes": [[32, 32], [16, 24]]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tiny_sora("a red circle", 5, 16, 24).shape == (1, 5, 16, 24, 3)


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_a_usual_number_of_tokens_keeps_the_shift(tiny_sora: Sora, frames: int) -> None:
    """Of 32 x 32 pixels the VAE makes 16 tokens a group."""
    plain = tiny_sora("a red circle", frames, generator=noise())
    tiny_sora.defaults = tiny_sora.defaults | {"base_tokens": 16 * (1 + frames // 4)}
    assert np.array_equal(tiny_sora("a red circle", frames, generator=noise()), plain)


def test_four_times_the_usual_tokens_double_the_shift(tiny_sora: Sora) -> None:
    usual = tiny_sora.defaults
    tiny_sora.defaults = usual | {"shift": 2 * usual["shift"]}
    doubled = tiny_sora("a red circle", generator=noise())
    tiny_sora.defaults = usual | {"base_tokens": 20}  # a clip has 80
    assert np.array_equal(tiny_sora("a red circle", generator=noise()), doubled)


# Prompts


def test_unknown_words_are_named_once_with_the_nearest_known_ones(tiny_sora: Sora) -> None:
    unknown = (
        r"the model does not know 'crimson', 'sqare' \(nearest known: square\), 'ugly'; "
        "it reads them as blanks$"
    )
    with pytest.warns(UserWarning, match=unknown):
        tiny_sora(["a crimson circle", "a crimson sqare"], negative_prompt="ugly")


def test_the_warning_points_at_the_line_that_samples(tiny_sora: Sora) -> None:
    with pytest.warns(UserWarning) as caught:
        tiny_sora("a crimson circle")
    assert caught[0].filename == __file__


def test_known_words_are_no_warning(tiny_sora: Sora) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_sora("a red circle")


def test_upsampling_completes_short_prompts(tiny_sora: Sora) -> None:
    full = "a large red circle moving left on a black background"
    tiny_sora.upsampler = Upsampler(sorted(world.WORDS), width=16, depth=1)
    tiny_sora.upsampler.draw = lambda prompts, _: [full] * len(prompts)  # as if it were trained
    completed = tiny_sora("red circle", upsample=True, generator=noise())
    assert np.array_equal(completed, tiny_sora(full, generator=noise()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": "..."}, "the prompt is empty"),
        ({"num_inference_steps": 0}, "1 or more, got 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be .*, got nan"),
        ({"num_frames": 0}, "num_frames must be 1 or more, got 0"),
        ({"num_frames": 4101}, "4101 frames of 32 x 32 are 16,416 tokens, the most is 16,384"),
        ({"height": 30}, "height must be a multiple of 8, got 30: the nearest is 32"),
        ({"width": 3}, "width must be a multiple of 8, got 3: the nearest is 8"),
        ({"prompt": "red " * 30}, "30 words"),
    ],
    ids=[
        *("blank", "none", "no word", "no steps", "guidance"),
        *("no frames", "too long", "height", "width", "too many words"),
    ],
)
def test_bad_prompts_and_sizes_are_refused(tiny_sora: Sora, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_sora(**({"prompt": "a red circle"} | arguments))


# The parts and the bundle


def test_parts_of_two_models_do_not_mix(tiny_sora: Sora) -> None:
    other = TextEncoder(["red"], width=16)
    with pytest.raises(InputError, match="numbers of a text token are 16, the DiT takes 32"):
        Sora(tiny_sora.vae, other, tiny_sora.dit, tiny_sora.trained_on, tiny_sora.defaults)


def test_saved_weights_give_the_same_clip(tiny_sora: Sora, tmp_path: Path) -> None:
    tiny_sora.save(tmp_path)
    once = Sora.from_pretrained(tmp_path)  # its weights have been rounded to bfloat16
    once.save(tmp_path / "twice")
    twice = Sora.from_pretrained(tmp_path / "twice")
    clips = (sora("red circle", generator=noise()) for sora in (once, twice))
    assert np.array_equal(*clips)


def test_a_bundle_is_a_config_and_a_file_for_each_part(tiny_sora: Sora, tmp_path: Path) -> None:
    tiny_sora.save(tmp_path)
    parts = ["dit.safetensors", "text.safetensors", "vae.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", *parts]
