import numpy as np
import pytest
import torch
from conftest import shake

from minisora import InputError
from minisora.captioner import END, START, Captioner
from minisora.text import next_word_loss
from minisora.training import in_false_colors, nudged
from minisora.world import HELD_OUT, WORDS, clip, pairs
from minisora.world.shapes import SHAPES


@pytest.fixture
def captioner() -> Captioner:
    torch.manual_seed(0)
    return shake(Captioner(sorted(WORDS), width=32, depth=1))


def clips(count: int, frames: int = 17, size: int = 32) -> np.ndarray:
    return np.stack([clip(3, i, frames, size, size).frames for i in range(count)])


def test_words_know_only_those_before_them(captioner: Captioner) -> None:
    """What training computes at once is what decoding computes word by word."""
    ids = captioner.tokenize([clip(0, 0).caption])
    seen = captioner.caption_pooler(captioner.see(captioner.sample_frames(clips(1))))
    whole = captioner.say(captioner.read(ids), seen)
    for length in (1, 3, 7):
        part = captioner.say(captioner.read(ids[:, :length]), seen)
        assert torch.allclose(part, whole[:, :length], atol=1e-5)


def test_the_order_of_frames_counts_and_without_times_it_cannot(captioner: Captioner) -> None:
    frames = clips(2)
    backwards = np.ascontiguousarray(frames[:, ::-1])
    assert not torch.allclose(captioner.features(frames), captioner.features(backwards), atol=1e-3)
    torch.manual_seed(0)
    timeless = Captioner(sorted(WORDS), width=32, depth=1, timed=False).eval()
    assert torch.allclose(timeless.features(frames), timeless.features(backwards), atol=1e-5)
    assert not timeless.time.requires_grad


def test_captions_fit_and_end(captioner: Captioner) -> None:
    longest = (
        "a red circle standing still left of a blue square standing still on a black background"
    )
    ids = captioner.tokenize([longest, "red circle", ""])
    assert ids.shape == (3, 19) and (ids[:, 0] == START).all() and (ids[:, -1] == END).all()
    assert (
        (ids[0] > START).sum() == 16 and (ids[1] > START).sum() == 2 and (ids[2, 1:] == END).all()
    )
    with pytest.warns(UserWarning, match="never seen these words.*: crimson") as caught:
        odd, plain = captioner.text_features(["a crimson circle", "a circle"])
    assert caught[0].filename == __file__
    assert torch.equal(odd, plain)
    for index in range(50):
        assert START not in captioner.tokenize([pairs.clip(0, index, 2).caption])[0, 1:]


def test_reading_ends_when_every_caption_has_ended(captioner: Captioner, monkeypatch) -> None:
    """Captions that end at different words: what comes after an END is no reason to go on."""
    asked = []

    def say(words: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        step = (
            words.shape[1] - 1
        )  # the first caption ends at once and would go on, the second later
        asked.append(step)
        logits = torch.zeros(2, words.shape[1], captioner.head.out_features)
        logits[
            torch.arange(2), -1, torch.tensor([END if step == 0 else 5, END if step == 2 else 5])
        ] = 9
        return logits

    monkeypatch.setattr(captioner, "say", say)
    first, second = captioner(clips(2))
    assert first == "" and len(second.split()) == 2 and asked == [0, 1, 2]


def test_reads_any_length_and_size(captioner: Captioner) -> None:
    for frames, size in ((1, 32), (2, 32), (5, 64), (40, 24)):
        (said,) = captioner(clips(1, frames, size))
        assert isinstance(said, str)
    assert captioner(clips(1)[:, ::-1]) == captioner(clips(1)[:, ::-1].copy())
    large = np.repeat(np.repeat(clips(1), 2, axis=2), 2, axis=3)
    assert torch.allclose(captioner.features(large), captioner.features(clips(1)), atol=1e-5)


def test_draws_are_repeated_by_their_seed(captioner: Captioner) -> None:
    a, b, c = (captioner(clips(4), 1.0, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert a == b and a != c
    cold = captioner(clips(4), 1e-4, torch.Generator().manual_seed(0))
    assert captioner(clips(4)) == cold  # nearly always the likeliest word


def test_twins_are_no_negatives(captioner: Captioner) -> None:
    """Clips of one caption cannot be told apart by it, so they do not count against each other."""
    pixels = captioner.sample_frames(clips(4))
    _, apart = captioner.losses(pixels[:1], ["red circle"])
    _, twins = captioner.losses(pixels, ["red circle"] * 4)
    assert apart.abs() < 1e-4 and twins.abs() < 1e-4


def test_a_shape_is_weighed_only_against_those_that_came_in_its_color(
    captioner: Captioner,
) -> None:
    number = captioner.tokenizer.token_to_id
    strangers = captioner.strangers([clip(0, i).caption for i in range(600)])
    held_out = {(number(color), number(shape)) for shape, color in HELD_OUT}
    assert set(map(tuple, strangers.nonzero().tolist())) == held_out
    shape, color = min(HELD_OUT)
    seen = next(other for other in SHAPES if (other, color) not in HELD_OUT)
    pixels, ids = captioner.sample_frames(clips(1)), captioner.tokenize([f"{color} {seen}"])
    said, _ = captioner.losses(pixels, [f"{color} {seen}"], strangers)
    pooled = captioner.caption_pooler(captioner.see(pixels))
    logits = captioner.say(captioner.read(ids), pooled)[0]
    logits[1, number(shape)] = -torch.inf  # after the color
    surprise = [-logits[place].log_softmax(-1)[ids[0, place + 1]] for place in range(3)]
    assert torch.allclose(said, torch.stack(surprise).mean(), atol=1e-5)


def test_bad_input(captioner: Captioner) -> None:
    with pytest.raises(InputError, match=r"must be uint8 \(B, T, H, W, 3\), got torch.float32"):
        captioner(torch.zeros(1, 17, 32, 32, 3))
    with pytest.raises(InputError, match=r"got torch.uint8 \(17, 32, 32, 3\)"):
        captioner(clips(1)[0])
    with pytest.raises(InputError, match="32 x 32 are not cut evenly by patches of 5"):
        Captioner(["red"], patch=5)
    with pytest.raises(InputError, match="has 20 words, the captioner reads at most 17"):
        captioner.text_features([" ".join(["red"] * 20)])


def test_lessons_are_moved_about_as_a_whole() -> None:
    clips = torch.zeros(64, 2, 3, 32, 32)
    clips[:, :, :, 10:14, 20:24] = 1
    moved = nudged(clips, torch.Generator().manual_seed(0))
    assert torch.equal(moved[:, 0], moved[:, 1])  # every frame alike
    assert torch.equal(moved.flatten(1).sum(1), clips.flatten(1).sum(1))
    corners = {tuple(torch.nonzero(clip[0, 0])[0].tolist()) for clip in moved}
    assert {y for y, _ in corners} == set(range(7, 14)) and {x for _, x in corners} == set(
        range(17, 24)
    )


def test_false_colors_keep_all_but_the_colors(captioner: Captioner) -> None:
    pixels = captioner.sample_frames(clips(16))
    false = in_false_colors(pixels, torch.Generator().manual_seed(0))
    assert torch.equal(false.abs().sort(dim=2).values, pixels.abs().sort(dim=2).values)
    assert 0 < (false == pixels).flatten(1).all(1).sum() < 8  # few are left as they were
    ids = captioner.tokenize(["a red star standing still on a navy background"])
    logits = torch.randn(1, captioner.length, captioner.head.out_features)
    silent = captioner.color_words()
    other = logits.clone()
    other[:, silent[ids[0, 1:]]] += torch.randn_like(
        other[0, 0]
    )  # where "red" and "navy" come next
    assert next_word_loss(other, ids, silent) == next_word_loss(logits, ids, silent)
    assert next_word_loss(other, ids) != next_word_loss(logits, ids)
    other[:, 2] += torch.randn_like(other[0, 0])  # where "star" does
    assert next_word_loss(other, ids, silent) != next_word_loss(logits, ids, silent)
