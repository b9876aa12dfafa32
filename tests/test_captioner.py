import json

import numpy as np
import pytest
import torch
from conftest import shake

from minisora import InputError
from minisora.captioner import Captioner
from minisora.language_training import in_false_colors, shift_clips
from minisora.text import END_ID, START_ID, next_word_loss
from minisora.world import HELD_OUT, WORDS, clip, pairs
from minisora.world.shapes import BACKGROUNDS, COLORS, SHAPES


@pytest.fixture
def captioner() -> Captioner:
    torch.manual_seed(0)
    return shake(Captioner(sorted(WORDS), width=32, depth=1))


def clips(count: int, frames: int = 17, size: int = 32) -> np.ndarray:
    return np.stack([clip(3, i, frames, size, size).frames for i in range(count)])


def logits_of(captioner: Captioner, ids: torch.Tensor) -> torch.Tensor:
    """Next-word logits (1, L, words) for the first clip and given ids (1, L)."""
    tokens = captioner.encode_frames(captioner.sample_frames(clips(1)))
    visual = captioner.caption_pooler(tokens)
    return captioner.next_word_logits(captioner.encode_words(ids), visual)


# Frames


def test_the_order_of_frames_matters(captioner: Captioner) -> None:
    forwards = captioner.features(clips(2))
    backwards = captioner.features(clips(2)[:, ::-1])
    assert not torch.allclose(forwards, backwards, atol=1e-3)


def test_without_time_embeddings_the_order_of_frames_is_lost() -> None:
    timeless = Captioner(sorted(WORDS), width=32, depth=1, timed=False).eval()
    assert not timeless.time.requires_grad
    forwards, backwards = timeless.features(clips(2)), timeless.features(clips(2)[:, ::-1])
    assert torch.allclose(forwards, backwards, atol=1e-5)


@pytest.mark.parametrize(("frames", "size"), [(1, 32), (2, 32), (5, 64), (40, 24)], ids=str)
def test_reads_any_length_and_size(captioner: Captioner, frames: int, size: int) -> None:
    (caption,) = captioner(clips(1, frames, size))
    assert isinstance(caption, str)


def test_reads_views_of_arrays(captioner: Captioner) -> None:
    """NumPy reverses by a negative stride, which PyTorch does not know."""
    assert captioner(clips(1)[:, ::-1]) == captioner(clips(1)[:, ::-1].copy())


def test_enlarged_clips_have_the_same_features(captioner: Captioner) -> None:
    large = clips(1).repeat(2, axis=2).repeat(2, axis=3)
    assert torch.allclose(captioner.features(large), captioner.features(clips(1)), atol=1e-5)


# Words


@pytest.mark.parametrize("length", [1, 3, 7])
def test_words_see_only_those_before_them(captioner: Captioner, length: int) -> None:
    """Training computes all words at once what writing computes word by word."""
    ids = captioner.tokenize([clip(0, 0).caption])
    part, whole = logits_of(captioner, ids[:, :length]), logits_of(captioner, ids)
    assert torch.allclose(part, whole[:, :length], atol=1e-5)


LONGEST = "a red circle standing still left of a blue square standing still on a black background"


@pytest.mark.parametrize(
    ("caption", "words"), [(LONGEST, 16), ("red circle", 2), ("", 0)], ids=["long", "short", "no"]
)
def test_ids_are_start_words_and_ends(captioner: Captioner, caption: str, words: int) -> None:
    (ids,) = captioner.tokenize([caption])
    assert len(ids) == 19
    assert ids[0] == START_ID
    assert (ids[1 : words + 1] > START_ID).all()
    assert (ids[words + 1 :] == END_ID).all()


def test_unknown_words_are_left_out_with_a_warning(captioner: Captioner) -> None:
    with pytest.warns(UserWarning, match="does not know 'crimson'; it reads them") as caught:
        with_unknown, without = captioner.text_features(["a crimson circle", "a circle"])
    assert caught[0].filename == __file__
    assert torch.equal(with_unknown, without)


def test_knows_every_word_about_two_objects(captioner: Captioner) -> None:
    captions = [pairs.clip(0, index, 2).caption for index in range(50)]
    assert [captioner.unknown(caption) for caption in captions] == [[]] * 50


# Captions


def test_draws_are_repeated_by_their_seed(captioner: Captioner) -> None:
    a, b, c = (captioner(clips(4), 1.0, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert a == b
    assert a != c


def test_a_low_temperature_draws_the_likeliest_words(captioner: Captioner) -> None:
    cold = captioner(clips(4), 1e-4, torch.Generator().manual_seed(0))
    assert captioner(clips(4)) == cold


def test_a_caption_is_written_as_its_words_are_predicted(captioner: Captioner) -> None:
    captioner.head.bias.data[START_ID] = -100  # trained, it writes no start inside a caption
    (caption,) = captioner(clips(1))
    words = caption.split()[:10]  # untrained, it writes longer captions than it can read
    ids = captioner.tokenize([" ".join(words)])[:, : len(words) + 1]  # START_ID and the words
    assert logits_of(captioner, ids).argmax(-1)[0, :-1].tolist() == ids[0, 1:].tolist()


# Losses


def test_equal_captions_are_no_negatives(captioner: Captioner) -> None:
    """Their texts cannot distinguish the clips, so these do not count against each other."""
    pixels = captioner.sample_frames(clips(4))
    _, contrast = captioner.losses(pixels, ["red circle"] * 4)
    assert contrast.abs() < 1e-4


def test_different_captions_are_negatives(captioner: Captioner) -> None:
    pixels = captioner.sample_frames(clips(2))
    _, contrast = captioner.losses(pixels, ["red circle", "blue star"])
    assert contrast > 0.1


@pytest.fixture
def unseen(captioner: Captioner) -> torch.Tensor:
    return captioner.unseen_pairs([clip(0, i).caption for i in range(600)], COLORS, SHAPES)


def test_unseen_pairs_are_the_held_out_ones(captioner: Captioner, unseen) -> None:
    number = captioner.tokenizer.token_to_id
    held_out = {(number(color), number(shape)) for shape, color in HELD_OUT}
    assert set(map(tuple, unseen.nonzero().tolist())) == held_out


def test_words_outside_the_vocabulary_form_no_pairs(captioner: Captioner) -> None:
    assert not captioner.unseen_pairs(["red circle"], ["crimson"], SHAPES).any()


def test_an_unseen_shape_is_no_candidate_after_its_color(captioner: Captioner, unseen) -> None:
    """The loss is that of a softmax without the shape that never came in this color."""
    shape, color = min(HELD_OUT)
    seen = next(other for other in SHAPES if (other, color) not in HELD_OUT)
    caption = f"{color} {seen}"
    loss, _ = captioner.losses(captioner.sample_frames(clips(1)), [caption], unseen)
    ids = captioner.tokenize([caption])
    logits = logits_of(captioner, ids)[0]  # (L, words)
    logits[1, captioner.tokenizer.token_to_id(shape)] = -torch.inf  # after the color
    surprise = [-logits[i].log_softmax(-1)[ids[0, i + 1]] for i in range(3)]
    assert torch.allclose(loss, torch.stack(surprise).mean(), atol=1e-5)


@pytest.fixture
def recolored(captioner: Captioner) -> dict[str, torch.Tensor]:
    """Arguments of next_word_loss for a caption whose color words do not count."""
    ids = captioner.tokenize(["a red star standing still on a navy background"])
    logits = torch.randn(1, captioner.length, captioner.head.out_features)
    unscored = captioner.word_mask([*COLORS, *BACKGROUNDS])
    return {"logits": logits, "ids": ids, "unscored": unscored}


def test_color_words_do_not_count_in_false_colors(recolored) -> None:
    other = recolored["logits"].clone()
    other[:, recolored["unscored"][recolored["ids"][0, 1:]]] += 1 + torch.arange(other.shape[-1])
    assert next_word_loss(**recolored | {"logits": other}) == next_word_loss(**recolored)
    before, after = (next_word_loss(x, recolored["ids"]) for x in (recolored["logits"], other))
    assert before != after


def test_other_words_count_in_false_colors(recolored) -> None:
    other = recolored["logits"].clone()
    other[:, 2] += torch.arange(other.shape[-1])  # where "star" comes next
    assert next_word_loss(**recolored | {"logits": other}) != next_word_loss(**recolored)


# What training does to the clips


def test_clips_are_shifted_as_a_whole() -> None:
    clips = torch.zeros(64, 2, 3, 32, 32)
    clips[:, :, :, 10:14, 20:24] = 1
    shifted = shift_clips(clips, torch.Generator().manual_seed(0))
    assert torch.equal(shifted[:, 0], shifted[:, 1])  # every frame alike
    assert torch.equal(shifted.flatten(1).sum(1), clips.flatten(1).sum(1))


def test_clips_are_shifted_by_up_to_three_pixels() -> None:
    clips = torch.zeros(64, 2, 3, 32, 32)
    clips[:, :, :, 10:14, 20:24] = 1
    shifted = shift_clips(clips, torch.Generator().manual_seed(0))
    corners = [torch.nonzero(clip[0, 0])[0].tolist() for clip in shifted]
    assert {y for y, _ in corners} == set(range(7, 14))
    assert {x for _, x in corners} == set(range(17, 24))


def test_false_colors_change_nothing_but_colors(captioner: Captioner) -> None:
    pixels = captioner.sample_frames(clips(16))
    false = in_false_colors(pixels, torch.Generator().manual_seed(0))
    assert torch.equal(false.abs().sort(dim=2).values, pixels.abs().sort(dim=2).values)


def test_few_clips_keep_their_colors(captioner: Captioner) -> None:
    pixels = captioner.sample_frames(clips(16))
    false = in_false_colors(pixels, torch.Generator().manual_seed(0))
    assert 0 < (false == pixels).flatten(1).all(1).sum() < 8


# Input


def test_the_config_builds_the_captioner_again(captioner: Captioner) -> None:
    again = Captioner(**json.loads(json.dumps(captioner.config)))
    again.load_state_dict(captioner.state_dict())
    assert again.config == captioner.config


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(1, 17, 32, 32, 3), r"must be uint8 \(B, T, H, W, 3\), got torch.float32"),
        (clips(1)[0], r"got torch.uint8 \(17, 32, 32, 3\)"),
    ],
    ids=["float32", "one clip"],
)
def test_frames_of_another_form_are_refused(captioner: Captioner, frames, message: str) -> None:
    with pytest.raises(InputError, match=message):
        captioner(frames)


def test_patches_must_fit() -> None:
    with pytest.raises(InputError, match="32 x 32 are not cut evenly by patches of 5"):
        Captioner(["red"], patch=5)


def test_a_caption_can_be_too_long(captioner: Captioner) -> None:
    with pytest.raises(InputError, match="has 20 words, the captioner reads at most 17"):
        captioner.text_features([" ".join(["red"] * 20)])
