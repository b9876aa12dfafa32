"""The canvas: what is known of a clip, from the plan in frames to the pixels that come back."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from conftest import shake

from minisora import InputError, Sora, world
from minisora.canvas import (
    CANVAS,
    MODES,
    MOST_CONTEXT,
    Canvas,
    Plan,
    Span,
    animate,
    connect,
    draw_mode,
    extend,
    extend_backward,
    from_text,
    groups_of,
    length_of,
    loop,
)
from minisora.data import ClipData
from minisora.dit import DiT
from minisora.flow import flow_loss
from minisora.patches import unpatchify
from minisora.pipeline import Settings
from minisora.sampling import SAMPLERS, guided, noise_levels
from minisora.vae import VAE, to_frames, to_pixels
from minisora.views import Latents

pytestmark = [
    pytest.mark.usefixtures("in_float32"),
    pytest.mark.filterwarnings("ignore:not trained on"),
]
PROMPT = "a red circle moving right"


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frames(count: int, index: int = 0) -> np.ndarray:
    """A clip (count, 32, 32, 3) of the toy world."""
    return world.clip(0, index, count).frames


# A latent is a picture of its own group of frames


@pytest.fixture
def on_one_thread() -> None:
    """Several threads share a convolution differently at each length, and round differently."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return shake(VAE(channels=4, space=8, width=16, depth=2))


@pytest.mark.usefixtures("on_one_thread")
@pytest.mark.parametrize("length", [5, 9, 17, 33])
def test_a_groups_latent_is_the_same_to_the_bit_wherever_it_stands(vae: VAE, length: int) -> None:
    """Its four frames are put into each group of another clip."""
    group, other = torch.randn(1, 3, 4, 32, 32), torch.randn(1, 3, length, 32, 32)
    latents = []
    for at in range(1, length, 4):
        clip = torch.cat([other[:, :, :at], group, other[:, :, at + 4 :]], dim=2)
        latents.append(vae.encode(clip)[:, :, groups_of(at)])
    alone = vae.encode(torch.cat([group[:, :, :1], group], dim=2))[:, :, 1]
    assert all(torch.equal(latent, alone) for latent in latents)


@pytest.mark.usefixtures("on_one_thread")
def test_the_latent_of_an_image_is_the_first_of_a_clip_that_begins_with_it(
    tiny_sora: Sora,
) -> None:
    clip = frames(17)
    canvas = tiny_sora.prepare(animate(17), [clip[None, :1]], 1, (32, 32))
    encoded = tiny_sora.vae.encode(to_pixels(clip[None]))
    assert torch.equal(latents_of(tiny_sora, canvas)[:, :, 0], encoded[:, :, 0])


@pytest.mark.usefixtures("on_one_thread")
def test_the_last_groups_of_a_clip_are_encoded_as_in_the_whole(tiny_sora: Sora) -> None:
    """All but the first: that one is an image on the canvas, and a group of four in the clip."""
    clip, plan = frames(33), extend(33, 41)
    canvas = tiny_sora.prepare(plan, [clip[None]], 1, (32, 32))
    encoded = tiny_sora.vae.encode(to_pixels(clip[None]))
    assert torch.equal(latents_of(tiny_sora, canvas)[:, :, 1:5], encoded[:, :, 5:])


@pytest.mark.usefixtures("on_one_thread")
def test_the_first_groups_of_a_clip_stand_at_the_end_of_a_backward_canvas(tiny_sora: Sora) -> None:
    """They are cut differently there: four frames from the first on are a group."""
    clip, plan = frames(9), extend_backward(9, 13)
    canvas = tiny_sora.prepare(plan, [clip[None]], 1, (32, 32))
    shifted = np.concatenate([clip[:1], clip[:8]])[None]
    encoded = tiny_sora.vae.encode(to_pixels(shifted))[:, :, 1:]
    assert torch.equal(latents_of(tiny_sora, canvas)[:, :, -2:], encoded)


def latents_of(sora: Sora, canvas: Canvas) -> torch.Tensor:
    """(B, C, t, h, w)"""
    return unpatchify(canvas.tokens, canvas.grid, sora.dit.patch)


# Frames: plans for every number of given frames and of frames asked for. A case is a plan, the
# lengths of the given clips and the number of frames asked for.

Case = tuple[Plan, tuple[int, ...], int]
LONGER = [(given, given + new) for given in range(1, 41) for new in range(1, 21)]
JOINED = [(a, b, a + b + gap) for a, b in product(range(1, 41, 2), repeat=2) for gap in (4, 8, 20)]
CASES: dict[str, list[Case]] = {
    "from text": [(from_text(n), (), n) for n in range(1, 41)],
    "animate": [(animate(n), (1,), n) for n in range(2, 41)],
    "extend": [(extend(given, n), (given,), n) for given, n in LONGER],
    "extend backward": [(extend_backward(given, n), (given,), n) for given, n in LONGER],
    "connect": [(connect(a, b, n), (a, b), n) for a, b, n in JOINED],
    "loop": [(loop(n, n + gap), (n,), n + gap) for n in range(1, 41) for gap in (4, 8, 20)],
}
EVERY_CASE = pytest.mark.parametrize("cases", CASES.values(), ids=CASES)


def sources_of(plan: Plan, given: tuple[int, ...]) -> dict[int, int]:
    """The frames of each source of a plan's result."""
    return {CANVAS: plan.length, **dict(enumerate(given))}


@EVERY_CASE
def test_the_result_has_the_frames_that_were_asked_for(cases: list[Case]) -> None:
    for plan, given, asked in cases:
        assert sum(map(len, plan.result)) == asked, (given, asked)


@EVERY_CASE
def test_the_result_is_made_of_frames_that_exist(cases: list[Case]) -> None:
    for plan, given, asked in cases:
        sources = sources_of(plan, given)
        for span in plan.result:
            assert 0 <= span.start < span.stop <= sources[span.source], (given, asked)


@EVERY_CASE
def test_the_result_has_every_given_frame_once_and_in_order(cases: list[Case]) -> None:
    for plan, given, asked in cases:
        copied = [
            (span.source, frame)
            for span in plan.result
            if span.source != CANVAS
            for frame in range(span.start, span.stop)
        ]
        expected = [
            (source, frame) for source, count in enumerate(given) for frame in range(count)
        ]
        assert copied == expected, (given, asked)


@EVERY_CASE
def test_a_canvas_has_1_plus_4k_frames(cases: list[Case]) -> None:
    for plan, given, asked in cases:
        assert plan.length == length_of(plan.groups), (given, asked)


@EVERY_CASE
def test_known_frames_fill_whole_groups(cases: list[Case]) -> None:
    """The first group has one frame, every other has four."""
    for plan, given, asked in cases:
        for at, span in plan.given:
            assert (at == 0 or at % 4 == 1) and (at + len(span)) % 4 == 1, (given, asked)


@EVERY_CASE
def test_known_frames_lie_inside_the_canvas(cases: list[Case]) -> None:
    for plan, given, asked in cases:
        for at, span in plan.given:
            assert 0 <= at < at + len(span) <= plan.length, (given, asked)


@EVERY_CASE
def test_known_frames_are_given_ones(cases: list[Case]) -> None:
    """But where fewer than four have to fill a group: there the last one is held."""
    for plan, given, asked in cases:
        for _, span in plan.given:
            assert 0 <= span.start < span.stop <= max(4, given[span.source]), (given, asked)


@EVERY_CASE
def test_a_canvas_has_no_more_context_than_needed(cases: list[Case]) -> None:
    for plan, given, asked in cases:
        for _, span in plan.given:
            assert len(span) <= 1 + 4 * MOST_CONTEXT, (given, asked)


@EVERY_CASE
def test_sampled_frames_are_of_unknown_groups(cases: list[Case]) -> None:
    for plan, given, asked in cases:
        known = plan.known_groups()
        for span in plan.result:
            if span.source == CANVAS:
                touched = known[groups_of(span.start + 1) - 1 : groups_of(span.stop)]
                assert not touched.any(), (given, asked)


@EVERY_CASE
def test_no_group_is_sampled_in_vain(cases: list[Case]) -> None:
    """Surplus at the far end is less than a group."""
    for plan, given, asked in cases:
        sampled = sum(len(span) for span in plan.result if span.source == CANVAS)
        unknown = ~plan.known_groups()
        made = 4 * int(unknown.sum()) - 3 * int(unknown[0])
        assert 0 <= made - sampled < 4, (given, asked)


@EVERY_CASE
def test_the_frames_at_a_seam_are_neighbors_on_the_canvas(cases: list[Case]) -> None:
    for plan, given, asked in cases:
        for before, after in pairwise(plan.result):
            ends = places(plan, before.source, before.stop - 1)
            starts = places(plan, after.source, after.start)
            assert {end + 1 for end in ends} & starts, (given, asked)


def places(plan: Plan, source: int, frame: int) -> set[int]:
    """Where a frame stands on the canvas: in a loop, a given frame may stand at both ends."""
    if source == CANVAS:
        return {frame}
    return {
        at + frame - span.start
        for at, span in plan.given
        if span.source == source and span.start <= frame < span.stop
    }


@pytest.mark.parametrize("gap", [1, 2, 3, 5, 6, 7, 9, 30])
def test_clips_are_joined_by_whole_groups(gap: int) -> None:
    with pytest.raises(InputError, match=f"{20 + gap} in all would need {gap}: ") as refused:
        connect(13, 7, 20 + gap)
    nearest = int(str(refused.value).split()[-3]) - 20  # "... the nearest is 28 in all"
    assert nearest in range(4, 40, 4)
    assert abs(nearest - gap) == min(abs(each - gap) for each in range(4, 40, 4))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (lambda: from_text(0), "num_frames must be 1 or more, got 0"),
        (lambda: animate(1), "num_frames must be 2 or more, got 1"),
        (lambda: extend(0, 5), "given_frames must be 1 or more, got 0"),
        (lambda: extend(9, 9), "9 frames are given, so num_frames must be 10 or more, got 9"),
        (lambda: extend_backward(9, 3), "num_frames must be 10 or more, got 3"),
        (lambda: connect(9, 8, 17), "17 frames are given, so num_frames must be 18 or more"),
        (lambda: loop(9, 9), "9 frames are given, so num_frames must be 10 or more, got 9"),
    ],
    ids=["no frames", "no new frame", "no given frame", "as long", "shorter", "no gap", "no way"],
)
def test_plans_that_leave_nothing_to_do_are_refused(plan: Callable, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan()


# Given frames come back, to the bit


@pytest.mark.parametrize("count", [2, 5, 12])
def test_an_animated_image_is_the_first_frame(tiny_sora: Sora, count: int) -> None:
    image = frames(1)[0]
    made = tiny_sora.animate(image, PROMPT, count, generator=noise())
    assert made.shape == (1, count, 32, 32, 3)
    assert np.array_equal(made[0, 0], image)


def test_an_animated_image_has_the_usual_length(tiny_sora: Sora) -> None:
    assert tiny_sora.animate(frames(1)[0], PROMPT).shape[1] == tiny_sora.default_shape[0]


GIVEN_FRAMES = pytest.mark.parametrize("given", [1, 3, 4, 5, 18, 30])


@GIVEN_FRAMES
def test_an_extended_clip_begins_with_the_given_one(tiny_sora: Sora, given: int) -> None:
    made = tiny_sora.extend(frames(given), PROMPT, given + 6, generator=noise())
    assert made.shape == (1, given + 6, 32, 32, 3)
    assert np.array_equal(made[0, :given], frames(given))


@GIVEN_FRAMES
def test_a_clip_extended_backward_ends_with_the_given_one(tiny_sora: Sora, given: int) -> None:
    made = tiny_sora.extend(frames(given), PROMPT, given + 6, "backward", generator=noise())
    assert made.shape == (1, given + 6, 32, 32, 3)
    assert np.array_equal(made[0, 6:], frames(given))


@GIVEN_FRAMES
def test_joined_clips_are_the_ends(tiny_sora: Sora, given: int) -> None:
    first, second = frames(given), frames(7, index=1)
    made = tiny_sora.connect(first, second, PROMPT, given + 11, generator=noise())
    assert made.shape == (1, given + 11, 32, 32, 3)
    assert np.array_equal(made[0, :given], first)
    assert np.array_equal(made[0, -7:], second)


def test_a_loop_begins_with_the_given_clip(tiny_sora: Sora) -> None:
    made = tiny_sora.loop(frames(9), PROMPT, 21, generator=noise())
    assert made.shape == (1, 21, 32, 32, 3)
    assert np.array_equal(made[0, :9], frames(9))


def test_a_loop_leads_to_its_own_beginning() -> None:
    """The frames after its last one are, on the canvas, those that it begins with."""
    plan = loop(9, 21)
    (_, last) = plan.result
    assert (last.stop, Span(0, 0, 8)) in plan.given


def test_clips_are_joined_by_eight_frames_if_not_said(tiny_sora: Sora) -> None:
    assert tiny_sora.connect(frames(5), frames(6), PROMPT).shape[1] == 19


def test_every_prompt_continues_the_same_clip(tiny_sora: Sora) -> None:
    prompts = ["a red circle", "a blue star"]
    made = tiny_sora.extend(frames(9), prompts, 17, generator=noise())
    assert made.shape == (2, 17, 32, 32, 3)
    assert np.array_equal(made[0, :9], made[1, :9])
    assert not np.array_equal(made[0, 9:], made[1, 9:])


def test_the_same_seed_continues_alike(tiny_sora: Sora) -> None:
    a, b = (tiny_sora.extend(frames(9), PROMPT, 17, generator=noise(1)) for _ in range(2))
    assert np.array_equal(a, b)


def test_clips_of_any_size_go_on(tiny_sora: Sora) -> None:
    clip = world.clip(0, 0, 9, 24, 40).frames
    assert tiny_sora.extend(clip, PROMPT, 17).shape == (1, 17, 24, 40, 3)


def test_sampled_frames_are_those_of_the_decoded_canvas(tiny_sora: Sora) -> None:
    clip, plan = frames(9), extend(9, 15)
    with torch.inference_mode():
        canvas = tiny_sora.prepare(plan, [clip[None]], 1, (32, 32))
        canvas = solve(tiny_sora, canvas)
        decoded = to_frames(tiny_sora.decode(canvas))
    made = tiny_sora.extend(clip, PROMPT, 15, generator=noise())
    assert np.array_equal(made[0, 9:], decoded[0, 9:15])


# What is not known has no influence


def changed(clip: np.ndarray, part: slice) -> np.ndarray:
    """The clip, with other frames in one part."""
    other = clip.copy()
    other[part] = 255 - other[part]
    return other


# Of 30 frames the last 17 stand on the canvas, or the first 16.
@pytest.mark.parametrize(
    ("direction", "unseen", "new"),
    [("forward", slice(0, 13), slice(30, 36)), ("backward", slice(16, 30), slice(0, 6))],
    ids=["forward", "backward"],
)
def test_frames_that_are_not_on_the_canvas_have_no_influence(
    tiny_sora: Sora, direction: str, unseen: slice, new: slice
) -> None:
    clips = frames(30), changed(frames(30), unseen)
    a, b = (tiny_sora.extend(clip, PROMPT, 36, direction, generator=noise()) for clip in clips)
    assert np.array_equal(a[0, new], b[0, new])


@pytest.mark.parametrize(
    ("direction", "seen", "new"),
    [("forward", slice(13, 14), slice(30, 36)), ("backward", slice(15, 16), slice(0, 6))],
    ids=["forward", "backward"],
)
def test_frames_on_the_canvas_have_influence(
    tiny_sora: Sora, direction: str, seen: slice, new: slice
) -> None:
    """Also those that are furthest from the new ones, if canvases so long were trained on."""
    tiny_sora.trained_on = tiny_sora.trained_on | {"durations": [17, 33]}
    clips = frames(30), changed(frames(30), seen)
    a, b = (tiny_sora.extend(clip, PROMPT, 36, direction, generator=noise()) for clip in clips)
    assert not np.array_equal(a[0, new], b[0, new])


def test_the_far_ends_of_joined_clips_have_no_influence(tiny_sora: Sora) -> None:
    first, second = frames(30), frames(30, index=1)
    others = changed(first, slice(0, 13)), changed(second, slice(16, 30))
    made = tiny_sora.connect(first, second, PROMPT, generator=noise())
    again = tiny_sora.connect(*others, PROMPT, generator=noise())
    assert np.array_equal(made[0, 30:38], again[0, 30:38])


PLANS = {  # plans of two clips of 9 frames
    "text": from_text(17),
    "animate": animate(17),
    "extend": extend(9, 17),
    "extend backward": extend_backward(9, 17),
    "connect": connect(9, 9, 26),
    "loop": loop(9, 17),
}
EVERY_PLAN = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def prepare(sora: Sora, plan: Plan) -> Canvas:
    """The canvas of a plan for one prompt."""
    return sora.prepare(plan, [frames(9)[None], frames(9, index=1)[None]], 1, (32, 32))


@torch.inference_mode()
def solve(sora: Sora, canvas: Canvas) -> Canvas:
    return sora.solve(canvas, [PROMPT] * len(canvas.tokens), Settings(generator=noise()))


@EVERY_PLAN
def test_unknown_tokens_may_hold_anything_before_they_are_noise(
    tiny_sora: Sora, plan: Plan
) -> None:
    canvas = prepare(tiny_sora, plan)
    garbage = canvas.with_noise(1e6 * torch.randn(canvas.tokens.shape))
    solved = solve(tiny_sora, replace(canvas, tokens=garbage))
    assert torch.equal(solved.tokens, solve(tiny_sora, canvas).tokens)


@EVERY_PLAN
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_sampler_leaves_known_tokens_as_they_are(
    tiny_sora: Sora, plan: Plan, sampler: str
) -> None:
    tiny_sora.defaults = tiny_sora.defaults | {"sampler": sampler}
    canvas = prepare(tiny_sora, plan)
    solved = solve(tiny_sora, canvas)
    assert torch.equal(solved.tokens[canvas.known], canvas.tokens[canvas.known])


@EVERY_PLAN
def test_a_solved_canvas_is_known_as_a_whole(tiny_sora: Sora, plan: Plan) -> None:
    assert solve(tiny_sora, prepare(tiny_sora, plan)).known.all()


@EVERY_PLAN
def test_the_tokens_of_known_groups_are_known(tiny_sora: Sora, plan: Plan) -> None:
    canvas = prepare(tiny_sora, plan)
    by_group = canvas.known.view(1, plan.groups, -1)  # (1, t, h * w)
    assert torch.equal(by_group.all(-1)[0], plan.known_groups())
    assert torch.equal(by_group.any(-1)[0], plan.known_groups())


@EVERY_PLAN
def test_known_tokens_do_not_count_in_the_loss(tiny_sora: Sora, plan: Plan) -> None:
    canvas = prepare(tiny_sora, plan)
    prediction, eps = torch.randn(2, *canvas.tokens.shape)
    other = torch.where(canvas.known[..., None], 1e6 * prediction, prediction)
    losses = (flow_loss(p, canvas.tokens, eps, "v", canvas.known) for p in (prediction, other))
    assert torch.equal(*losses)


@EVERY_PLAN
def test_known_tokens_have_no_gradient(tiny_sora: Sora, plan: Plan) -> None:
    canvas = prepare(tiny_sora, plan)
    eps, prediction = torch.randn(2, *canvas.tokens.shape)
    prediction.requires_grad_()
    flow_loss(prediction, canvas.tokens, eps, "v", canvas.known).sum().backward()
    assert torch.equal((prediction.grad == 0).all(-1), canvas.known)


@torch.inference_mode()
def plain_text_to_video(sora: Sora) -> np.ndarray:
    """Sampling as it is without a canvas: noise, the flow, the decoder."""
    plan = from_text(17)
    positions = prepare(sora, plan).positions
    text, null = sora.text([PROMPT]), sora.text([""])
    velocity = guided(lambda x, t, text: sora.dit.velocity(x, t, text, positions), text, null, 2.0)
    x = torch.randn(1, 80, 4, generator=noise())  # (B, N, P)
    *_, x = SAMPLERS["euler"](velocity, x, noise_levels(2, shift=3.0))
    return to_frames(sora.vae.decode(unpatchify(x, (5, 4, 4), (1, 1, 1))))


def test_a_canvas_without_known_tokens_is_plain_text_to_video(tiny_sora: Sora) -> None:
    made = tiny_sora(PROMPT, generator=noise())
    assert np.array_equal(made, plain_text_to_video(tiny_sora))


# Warnings and bad input

MADE = {
    "call": lambda sora, prompt: sora(prompt, 21),
    "animate": lambda sora, prompt: sora.animate(frames(1)[0], prompt, 21),
    "extend": lambda sora, prompt: sora.extend(frames(17), prompt, 21),
    "extend backward": lambda sora, prompt: sora.extend(frames(16), prompt, 21, "backward"),
    "connect": lambda sora, prompt: sora.connect(frames(5), frames(8), prompt, 21),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_warnings_point_at_the_line_that_samples(tiny_sora: Sora, make: Callable) -> None:
    with pytest.warns(UserWarning) as caught:
        make(tiny_sora, "a crimson circle")
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_unknown_words_and_new_lengths_are_warnings(tiny_sora: Sora, make: Callable) -> None:
    with pytest.warns(UserWarning) as caught:
        make(tiny_sora, "a crimson circle")
    said = {str(warning.message) for warning in caught}
    words = "the model does not know 'crimson'; it reads them as blanks"
    # what goes forward from given frames is made window by window, in lengths trained on
    goes_forward = make in (MADE["animate"], MADE["extend"])
    assert said == {words} | (
        set() if goes_forward else {"not trained on 21 frames: it may look worse"}
    )


def test_a_long_clip_that_goes_on_for_a_usual_length_is_no_warning(tiny_sora: Sora) -> None:
    """The model sees the canvas alone: 17 frames and 8 new ones."""
    tiny_sora.trained_on = tiny_sora.trained_on | {"durations": [25]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tiny_sora.extend(frames(50), PROMPT, 58).shape[1] == 58


CLIP = frames(9)
WIDE = np.zeros((9, 32, 40, 3), np.uint8)
REFUSED = {
    "no image": (
        lambda sora: sora.animate(CLIP, PROMPT),
        r"uint8 \(H, W, 3\), got uint8 \(9, 32, 32, 3\)",
    ),
    "an image of floats": (
        lambda sora: sora.animate(CLIP[0] / 255, PROMPT),
        r"uint8 \(H, W, 3\), got float64 \(32, 32, 3\)",
    ),
    "a gray image": (lambda sora: sora.animate(CLIP[0, ..., 0], PROMPT), r"got uint8 \(32, 32\)"),
    "an uneven image": (
        lambda sora: sora.animate(CLIP[0, :30], PROMPT),
        "height must be a multiple of 8, got 30: the nearest is 32",
    ),
    "an image of one frame": (
        lambda sora: sora.animate(CLIP[0], PROMPT, 1),
        "num_frames must be 2 or more, got 1",
    ),
    "no video": (
        lambda sora: sora.extend(CLIP[0], PROMPT, 17),
        r"uint8 \(T, H, W, 3\), got uint8 \(32, 32, 3\)",
    ),
    "an empty video": (lambda sora: sora.extend(CLIP[:0], PROMPT, 17), r"\(0, 32, 32, 3\)"),
    "a video of floats": (lambda sora: sora.extend(CLIP * 1.0, PROMPT, 17), "got float64"),
    "no longer video": (
        lambda sora: sora.extend(CLIP, PROMPT, 9),
        "9 frames are given, so num_frames must be 10 or more, got 9",
    ),
    "no longer video backward": (
        lambda sora: sora.extend(CLIP, PROMPT, 8, "backward"),
        "9 frames are given, so num_frames must be 10 or more, got 8",
    ),
    "an unknown direction": (
        lambda sora: sora.extend(CLIP, PROMPT, 17, "sideways"),
        'extended "forward" or "backward", not \'sideways\'',
    ),
    "two sizes": (
        lambda sora: sora.connect(CLIP, WIDE, PROMPT),
        "need one size, got 32 x 32 and 32 x 40",
    ),
    "no room between": (
        lambda sora: sora.connect(CLIP, CLIP, PROMPT, 18),
        "18 frames are given, so num_frames must be 19 or more, got 18",
    ),
    "an uneven gap": (
        lambda sora: sora.connect(CLIP, CLIP, PROMPT, 23),
        "23 in all would need 5: the nearest is 22 in all",
    ),
    "a second clip of floats": (
        lambda sora: sora.connect(CLIP, CLIP * 1.0, PROMPT),
        "got float64",
    ),
    "no prompt": (lambda sora: sora.extend(CLIP, " ", 17), "the prompt is empty"),
    "too much": (lambda sora: sora.extend(CLIP, PROMPT, 5000, "backward"), "the most is 16,384"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_media_is_refused_in_a_sentence(tiny_sora: Sora, make: Callable, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(tiny_sora)


def test_patches_of_several_groups_go_on_from_nothing(tiny_sora: Sora) -> None:
    """A token would be half known."""
    tiny_sora.dit = DiT("tiny", channels=4, patch=(5, 1, 1), text_width=32)
    with pytest.raises(InputError, match="patches of this model join 5 groups of frames"):
        tiny_sora.animate(CLIP[0], PROMPT, 17)


def test_patches_of_several_groups_make_clips_from_text(tiny_sora: Sora) -> None:
    tiny_sora.dit = DiT("tiny", channels=4, patch=(5, 1, 1), text_width=32)
    assert tiny_sora(PROMPT, 17).shape == (1, 17, 32, 32, 3)


# Modes: what is known in training

SIDES = [(1, 2), (2, 1), (2, 2), (3, 5), (8, 8)]
EVERY_MODE = pytest.mark.parametrize("name", MODES)


def masks_of(name: str) -> Iterator[torch.Tensor]:
    """Known tokens (t, h, w) as the mode draws them, for many grids and seeds."""
    mode = MODES[name]
    for latents, (height, width) in product(range(mode.least, 8), SIDES):
        for seed in range(25):
            yield mode.known((latents, height, width), noise(seed))


@EVERY_MODE
def test_a_mode_leaves_something_to_do(name: str) -> None:
    assert not [known.shape for known in masks_of(name) if known.all()]


@EVERY_MODE
def test_a_mode_knows_something_but_for_text_and_edits(name: str) -> None:
    knows = {bool(known.any()) for known in masks_of(name)}
    assert knows == {name not in ("text", "edit")}


@EVERY_MODE
def test_a_mask_has_the_grid_of_the_clip(name: str) -> None:
    known = MODES[name].known((4, 3, 5), noise())
    assert known.shape == (4, 3, 5)
    assert known.dtype == torch.bool


@EVERY_MODE
def test_a_mask_is_a_function_of_the_generator(name: str) -> None:
    a, b = (MODES[name].known((7, 5, 5), noise(3)) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("name", [n for n in MODES if n not in ("text", "edit", "animate")])
def test_masks_differ_from_clip_to_clip(name: str) -> None:
    masks = {tuple(MODES[name].known((7, 5, 5), noise(s)).flatten().tolist()) for s in range(20)}
    assert len(masks) > 3


def known_latents(name: str) -> Iterator[list[bool]]:
    """Which latents are known, for modes that know whole ones."""
    for known in masks_of(name):
        assert torch.equal(known.all((1, 2)), known.any((1, 2)))
        yield known.all((1, 2)).tolist()


def test_animate_knows_the_first_latent() -> None:
    assert all(known == [True] + [False] * (len(known) - 1) for known in known_latents("animate"))


def test_extend_knows_a_beginning() -> None:
    assert all(known == sorted(known, reverse=True) for known in known_latents("extend"))


def test_extend_backward_knows_an_end() -> None:
    assert all(known == sorted(known) for known in known_latents("extend backward"))


def test_connect_knows_both_ends_and_not_what_is_between() -> None:
    for known in known_latents("connect"):
        assert known[0] and known[-1]
        inside = "".join("?x"[each] for each in known).strip("x")
        assert set(inside) == {"?"}


@pytest.mark.parametrize("name", ["extend", "extend backward"])
def test_every_number_of_known_latents_is_drawn(name: str) -> None:
    counts = {sum(known) for known in known_latents(name) if len(known) == 5}
    assert counts == {1, 2, 3, 4}


def test_inpaint_leaves_a_box_that_is_the_same_in_every_latent() -> None:
    for known in masks_of("inpaint"):
        assert torch.equal(known, known[:1].expand_as(known))
        rows, columns = (~known[0]).nonzero().T
        box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert box == len(rows)


@pytest.mark.parametrize("latents", [2, 5], ids=["two latents", "five latents"])
def test_modes_are_drawn_by_their_shares(latents: int) -> None:
    """Of those modes that such clips can have."""
    generator, count = noise(), 6000
    drawn = Counter(draw_mode(latents, 0.4, generator) for _ in range(count))
    shares = {name: mode.share for name, mode in MODES.items() if mode.least <= latents}
    expected = {name: 0.4 * share / sum(shares.values()) for name, share in shares.items()}
    expected["text"] = 0.6
    for name, share in expected.items():
        error = (share * (1 - share) / count) ** 0.5
        assert abs(drawn[name] / count - share) <= 4 * error, name


def test_connect_needs_three_latents() -> None:
    generator = noise()
    assert "connect" not in {draw_mode(2, 1.0, generator) for _ in range(500)}


def test_an_image_is_from_text() -> None:
    generator = noise()
    assert {draw_mode(1, 1.0, generator) for _ in range(100)} == {"text"}


@pytest.mark.parametrize(("known", "text"), [(0.0, {True}), (1.0, {False})], ids=["none", "all"])
def test_a_share_of_none_or_of_all_clips_is_exact(known: float, text: set[bool]) -> None:
    generator = noise()
    assert {draw_mode(5, known, generator) == "text" for _ in range(500)} == text


def test_modes_are_a_function_of_the_generator() -> None:
    a, b = ([draw_mode(5, 0.4, g) for _ in range(50)] for g in (noise(1), noise(1)))
    assert a == b


TRAINED = ["text", *(name for name, mode in MODES.items() if mode.share)]  # the others are free


@pytest.mark.parametrize(
    ("known", "modes"), [(0.0, ["text"]), (0.4, TRAINED)], ids=["text alone", "all modes"]
)
def test_a_model_is_trained_on_the_modes_of_the_table(
    vae_folder: str, known: float, modes: list[str]
) -> None:
    data = ClipData(Latents(vae_folder, known=known), clips=1)
    assert data.trained_on["modes"] == modes


def test_the_table_has_the_plan_of_each_mode() -> None:
    """With the numbers of frames that a user gives."""
    asked = {"text": (9,), "animate": (1, 9), "connect": (4, 5, 17), "edit": (9,), "inpaint": (9,)}
    for name, mode in MODES.items():
        plan = mode.plan(*asked.get(name, (5, 9)))
        assert sum(map(len, plan.result)) in (9, 17), name
