"""What can be asked of the model beside words: edits, regions, loops and clips of any length."""

from itertools import islice

import numpy as np
import pytest
import torch

from minisora import InputError, Sora, world
from minisora.sora import fill_hole
from minisora.vae import to_frames, to_pixels

pytestmark = [
    pytest.mark.usefixtures("in_float32"),
    pytest.mark.filterwarnings("ignore:not trained on"),
]
SOURCE = "a small red circle moving right on a black background"
PROMPT = "a small blue circle moving right on a black background"


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frames(count: int = 9, index: int = 0) -> np.ndarray:
    """A clip (count, 32, 32, 3) of the toy world."""
    return world.clip(0, index, count).frames


@torch.inference_mode()
def after_vae(sora: Sora, clip: np.ndarray) -> np.ndarray:
    return to_frames(sora.vae.decode(sora.vae.encode(to_pixels(clip[None]))))


def most_apart(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference of two clips, in 255ths."""
    return int(np.abs(a.astype(int) - b).max())


# Edits

METHODS = pytest.mark.parametrize("method", ["flow", "noise"])


@METHODS
def test_an_edit_without_strength_changes_nothing(tiny_sora: Sora, method: str) -> None:
    clip = frames()
    made = tiny_sora.edit(clip, PROMPT, 0.0, SOURCE, method, generator=noise())
    assert most_apart(made, after_vae(tiny_sora, clip)) <= 1


def test_an_edit_to_what_a_clip_shows_already_changes_nothing(tiny_sora: Sora) -> None:
    """Both prompts ask for the same, so their difference is zero at every step."""
    clip = frames()
    made = tiny_sora.edit(clip, PROMPT, 0.9, PROMPT, generator=noise())
    assert most_apart(made, after_vae(tiny_sora, clip)) <= 1


@METHODS
def test_an_edit_changes_more_with_more_strength(tiny_sora: Sora, method: str) -> None:
    clip = frames()
    before = after_vae(tiny_sora, clip).astype(float)
    change = [
        np.abs(tiny_sora.edit(clip, PROMPT, s, SOURCE, method, generator=noise()) - before).mean()
        for s in (0.3, 0.9)
    ]
    assert change[0] < change[1]


def test_an_edit_of_a_motion_starts_from_more_noise(tiny_sora: Sora) -> None:
    other = SOURCE.replace("right", "left")
    by_default = tiny_sora.edit(frames(), other, None, SOURCE, generator=noise())
    said = tiny_sora.edit(frames(), other, 0.9, SOURCE, generator=noise())
    assert np.array_equal(by_default, said)


def test_an_edit_has_the_frames_of_the_clip(tiny_sora: Sora) -> None:
    assert tiny_sora.edit(frames(11), PROMPT, source_prompt=SOURCE).shape == (1, 11, 32, 32, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 1.5}, "strength must be from 0 to 1, got 1.5"),
        ({"strength": float("nan")}, "strength must be from 0 to 1, got nan"),
        ({"method": "magic"}, 'by the method "flow" or "noise", not \'magic\''),
    ],
    ids=["strength", "nan", "method"],
)
def test_impossible_edits_are_refused(tiny_sora: Sora, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_sora.edit(frames(), PROMPT, source_prompt=SOURCE, **arguments)


# Regions


def left(side: int = 32) -> np.ndarray:
    """The mask (H, W) of the left half."""
    mask = np.zeros((side, side), dtype=bool)
    mask[:, : side // 2] = True
    return mask


def test_outside_a_mask_every_pixel_stays(tiny_sora: Sora) -> None:
    clip = frames(11)
    made = tiny_sora.inpaint(clip, left(), PROMPT, generator=noise())
    assert np.array_equal(made[0][:, ~left()], clip[:, ~left()])


def test_inside_a_mask_everything_is_new(tiny_sora: Sora) -> None:
    clip = frames()
    a, b = (tiny_sora.inpaint(clip, left(), PROMPT, generator=noise(i)) for i in range(2))
    assert not np.array_equal(a[0][:, left()], b[0][:, left()])


@pytest.mark.parametrize("columns", [16, 11], ids=["whole tokens", "parts of tokens"])
def test_what_was_in_a_mask_has_no_influence(tiny_sora: Sora, columns: int) -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[:, :columns] = True
    clip = frames()
    other = np.where(mask[..., None], 255 - clip, clip)
    a, b = (tiny_sora.inpaint(each, mask, PROMPT, generator=noise()) for each in (clip, other))
    assert np.array_equal(a, b)


def test_a_mask_may_move(tiny_sora: Sora) -> None:
    clip = frames()
    mask = np.zeros(clip.shape[:3], dtype=bool)
    for t in range(9):
        mask[t, :, t : t + 8] = True
    made = tiny_sora.inpaint(clip, mask, PROMPT, generator=noise())
    assert np.array_equal(made[0][~mask], clip[~mask])


def test_a_token_is_made_anew_if_the_mask_touches_it(tiny_sora: Sora) -> None:
    """Tokens of the tiny model are 8 x 8 pixels: one pixel is in one of 16, in its own group."""
    mask = np.zeros((9, 32, 32), dtype=bool)
    mask[5, 9, 17] = True
    assert tiny_sora.tokens_of(mask).nonzero().tolist() == [[2 * 16 + 1 * 4 + 2]]


def test_a_hole_is_filled_from_its_border() -> None:
    clip = np.full((1, 8, 8, 3), 10, dtype=np.uint8)
    mask = np.zeros((1, 8, 8), dtype=bool)
    mask[:, 2:6, 2:6] = True
    assert np.array_equal(fill_hole(np.where(mask[..., None], 200, clip), mask), clip)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((32, 32), bool), "covers the whole clip"),
        (np.zeros((32, 32), bool), "the mask is empty"),
        (
            np.ones((16, 32), bool),
            r"must be \(32, 32\) or \(9, 32, 32\), as the frames, got \(16, 32",
        ),
    ],
    ids=["everything", "nothing", "another size"],
)
def test_impossible_masks_are_refused(tiny_sora: Sora, mask: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_sora.inpaint(frames(), mask, PROMPT)


# Clips of any length


@pytest.mark.parametrize("count", [1, 5, 33, 34, 60])
def test_a_stream_has_as_many_frames_as_asked_for(tiny_sora: Sora, count: int) -> None:
    parts = [*tiny_sora.stream(PROMPT, count, generator=noise())]
    assert np.concatenate(parts, axis=1).shape == (1, count, 32, 32, 3)


def test_a_stream_begins_as_a_clip_of_one_window(tiny_sora: Sora) -> None:
    parts = [*tiny_sora.stream(PROMPT, 60, generator=noise())]
    begun = np.concatenate(parts, axis=1)[:, :17]
    assert most_apart(begun, tiny_sora(PROMPT, 17, generator=noise())) <= 1


def test_a_stream_is_made_as_it_is_read(tiny_sora: Sora) -> None:
    """A clip of a year begins at once."""
    parts = tiny_sora.stream(PROMPT, 8 * 60 * 60 * 24 * 365, generator=noise())
    assert [part.shape[1] for part in islice(parts, 3)] == [1, 4, 4]


def test_the_past_outside_the_window_has_no_influence(tiny_sora: Sora) -> None:
    """Latent k of a stream is a function of those before it in its window, and of its noise."""
    latents = [*islice(latents_of(tiny_sora), 13)]
    with torch.inference_mode():
        known = torch.arange(9) < 5
        begun = torch.cat([*latents[4:9], *latents[9:13]], dim=2)
        canvas = tiny_sora.canvas_of(begun, known, 1)
        generator = noise()
        tiny_sora.noise(canvas.tokens, generator)  # the first window's
        solved = tiny_sora.solve(canvas, [PROMPT], settings(generator))
    assert torch.allclose(tiny_sora.latents_of(solved)[:, :, 5:], begun[:, :, 5:], atol=1e-5)


def settings(generator: torch.Generator):
    from minisora.pipeline import Settings

    return Settings(generator=generator)


def latents_of(sora: Sora):
    with torch.inference_mode():
        yield from sora.stream_latents([PROMPT], (32, 32), 9, 5, settings(noise()))


@pytest.mark.parametrize("context", [0, 9])
def test_a_window_needs_known_and_new_latents(tiny_sora: Sora, context: int) -> None:
    with pytest.raises(InputError, match="context must be"):
        next(tiny_sora.stream(PROMPT, 60, context=context))


# Prompts that are left out


def test_without_a_prompt_the_captioner_says_what_is_given(tiny_sora: Sora) -> None:
    clip = world.clip(0, 0, 17)
    assert tiny_sora.fill_in(None, [clip.frames]) == [clip.caption]


def test_an_image_without_a_prompt_gets_a_motion(tiny_sora: Sora) -> None:
    (caption,) = tiny_sora.fill_in(None, [frames(1)], generator=noise())
    assert world.language.is_complete(caption)


def test_a_part_of_a_caption_changes_what_the_captioner_says(tiny_sora: Sora) -> None:
    clip = next(c for c in (world.clip(0, i, 17) for i in range(99)) if c.truth["color"] == "red")
    (caption,) = tiny_sora.fill_in("make it blue", [clip.frames], upsample=True)
    assert caption == clip.caption.replace("red", "blue")


def test_prompts_are_as_typed_if_not_said(tiny_sora: Sora) -> None:
    assert tiny_sora.fill_in("blue", [frames()]) == ["blue"]


@pytest.mark.filterwarnings("ignore:not trained on")
def test_who_writes_the_prompt_does_not_change_the_clip(tiny_sora: Sora) -> None:
    (caption,) = tiny_sora.fill_in(None, [frames(1)], generator=noise(3))
    written = tiny_sora.animate(frames(1)[0], generator=noise(3))
    assert np.array_equal(written, tiny_sora.animate(frames(1)[0], caption, generator=noise(3)))


def test_a_window_that_is_too_large_is_refused(tiny_sora: Sora) -> None:
    with pytest.raises(InputError, match="the most is 16,384"):
        next(tiny_sora.stream(PROMPT, 5, 512, 512))


# Long clips


def test_a_stream_goes_on_from_a_clip(tiny_sora: Sora) -> None:
    parts = [*tiny_sora.stream(PROMPT, 60, given=frames(17), generator=noise())]
    made = np.concatenate(parts, axis=1)
    assert made.shape == (1, 60, 32, 32, 3)
    assert np.array_equal(made[0, :17], frames(17))


def test_a_stream_from_one_frame_follows_an_image(tiny_sora: Sora) -> None:
    streamed = np.concatenate(
        [*tiny_sora.stream(PROMPT, 17, given=frames(1), generator=noise())], axis=1
    )
    animated = tiny_sora.animate(frames(1)[0], PROMPT, 17, generator=noise())
    assert most_apart(streamed, animated) <= 1


def test_a_long_animation_is_made_window_by_window(tiny_sora: Sora) -> None:
    made = tiny_sora.animate(frames(1)[0], PROMPT, 200, generator=noise())
    assert made.shape == (1, 200, 32, 32, 3)
    assert np.array_equal(made[0, 0], frames(1)[0])


def test_a_prompt_is_checked_before_a_stream_is_read(tiny_sora: Sora) -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        tiny_sora.stream("", 60)


# Loops


def of_motion(motion: str, count: int) -> np.ndarray:
    clips = (world.clip(0, i, count) for i in range(999))
    return next(clip.frames for clip in clips if clip.truth["motion"] == motion)


def test_two_whole_bounces_come_back_as_they_are(tiny_sora: Sora) -> None:
    bounce = of_motion("bouncing", 17)
    assert np.array_equal(tiny_sora.loop(bounce, PROMPT)[0], bounce[:16])


def test_a_loop_is_as_long_as_its_motion_needs(tiny_sora: Sora) -> None:
    made = tiny_sora.loop(of_motion("growing", 17), PROMPT, generator=noise())
    assert made.shape[1] in (31, 32, 33)


def test_a_long_loop_begins_with_the_given_frames(tiny_sora: Sora) -> None:
    made = tiny_sora.loop(frames(17), PROMPT, 61, generator=noise())
    assert made.shape == (1, 61, 32, 32, 3)
    assert np.array_equal(made[0, :17], frames(17))


def test_a_request_for_what_is_there_already_is_refused(tiny_sora: Sora) -> None:
    with pytest.raises(InputError, match="'make it red' changes nothing"):
        tiny_sora.edit(frames(9), "make it red", source_prompt=SOURCE)


def test_each_prompt_of_an_edit_has_its_own_strength(tiny_sora: Sora) -> None:
    clip, far = frames(9), PROMPT.replace("right", "left")
    both = tiny_sora.edit(clip, [PROMPT, far], source_prompt=SOURCE, generator=noise())
    alone = tiny_sora.edit(clip, PROMPT, source_prompt=SOURCE, generator=noise())
    assert np.array_equal(both[0], alone[0])


@pytest.mark.parametrize("number", [{"num_inference_steps": 0}, {"guidance_scale": float("nan")}])
def test_impossible_numbers_are_refused_before_the_captioner_runs(
    tiny_sora: Sora, number: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sora, "describe", lambda *_: pytest.fail("the captioner ran"))
    with pytest.raises(InputError, match=next(iter(number))):
        tiny_sora.extend(frames(), **number)


def test_a_black_clip_has_no_caption(tiny_sora: Sora, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_caption(*_: object, **__: object) -> list[str]:
        raise InputError("no such caption")

    monkeypatch.setattr(tiny_sora.upsampler, "complete", no_caption)
    with pytest.raises(InputError, match="the captioner can make nothing of what is given"):
        tiny_sora.extend(np.zeros((9, 32, 32, 3), dtype=np.uint8))
