import numpy as np
import pytest
import torch
from conftest import shake

from minisora import InputError
from minisora.captioner import END, START, Captioner, recolored
from minisora.world import WORDS, clip, pairs


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
    for index in range(50):
        assert START not in captioner.tokenize([pairs.clip(0, index, 2).caption])[0, 1:]


def test_reads_any_length_and_size(captioner: Captioner) -> None:
    for frames, size in ((1, 32), (2, 32), (5, 64), (40, 24)):
        (said,) = captioner(clips(1, frames, size))
        assert isinstance(said, str)
    large = np.repeat(np.repeat(clips(1), 2, axis=2), 2, axis=3)
    assert torch.allclose(captioner.features(large), captioner.features(clips(1)), atol=1e-5)


def test_draws_are_repeated_by_their_seed(captioner: Captioner) -> None:
    a, b, c = (captioner(clips(4), 1.0, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert a == b and a != c
    assert captioner(clips(4)) == captioner(clips(4), 0.0)


def test_twins_are_no_negatives(captioner: Captioner) -> None:
    """Clips of one caption cannot be told apart by it, so they do not count against each other."""
    pixels = captioner.sample_frames(clips(4))
    _, apart = captioner.losses(pixels[:1], ["red circle"])
    _, twins = captioner.losses(pixels, ["red circle"] * 4)
    assert apart.abs() < 1e-4 and twins.abs() < 1e-4


def test_recolored_clips_show_the_same_in_other_colors(captioner: Captioner) -> None:
    """What looks like the first pixel still does, what differs still differs, clip by clip."""
    pixels = captioner.sample_frames(clips(40))
    changed = recolored(pixels, torch.Generator().manual_seed(0))

    def ground(video: torch.Tensor) -> torch.Tensor:
        return (video - video[:, :1, :, :1, :1]).abs().amax(2) < 0.05

    assert (ground(changed) == ground(pixels)).float().mean() > 0.99
    assert changed.abs().max() <= 1
    assert (changed - pixels).abs().mean() > 0.3


def test_recolored_clips_teach_all_words_but_colors_and_the_others_only_colors(
    captioner: Captioner,
) -> None:
    pixels, draws = captioner.sample_frames(clips(1)), torch.Generator
    caption = "a small {} circle moving left on a {} background"

    def words(color: str, background: str, shape: str, blind: bool) -> float:
        text = caption.format(color, background).replace("circle", shape)
        said = captioner.losses(pixels, [text], torch.tensor([blind]), draws().manual_seed(0))[0]
        return said.item()

    red = words("red", "black", "circle", True)
    assert red == words("cyan", "pink", "circle", True)
    assert red != words("red", "black", "star", True)
    ids = captioner.tokenize([caption.format("red", "black")])
    seen = captioner.caption_pooler(captioner.see(pixels))
    surprise = -captioner.say(captioner.read(ids), seen).log_softmax(-1)[0]
    of_colors = [surprise[place, ids[0, place + 1]] for place in (2, 8)]
    expected = torch.stack(of_colors).mean().item()
    assert words("red", "black", "circle", False) == pytest.approx(expected, abs=1e-5)


def test_a_clip_is_compared_with_its_like_only(captioner: Captioner) -> None:
    """Recolored clips and true ones are no rivals: their texts do not say the same kind of thing."""
    pixels, texts = captioner.sample_frames(clips(4)), [clip(3, i).caption for i in range(4)]
    blind = torch.tensor([True, True, False, False])
    _, both = captioner.losses(pixels, texts, blind)
    parts = [captioner.losses(pixels[h], texts[h], blind[h])[1] for h in (slice(2), slice(2, 4))]
    assert torch.allclose(both, torch.stack(parts).mean(), atol=1e-4)


def test_bad_input(captioner: Captioner) -> None:
    with pytest.raises(InputError, match=r"uint8 clips \(B, T, H, W, 3\), got torch.float32"):
        captioner(torch.zeros(1, 17, 32, 32, 3))
    with pytest.raises(InputError, match=r"got torch.uint8 \(17, 32, 32, 3\)"):
        captioner(clips(1)[0])
