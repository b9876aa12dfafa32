"""Training data: batches are functions of their step, and views show what they promise."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Trainer

from minisora import InputError, draws, world
from minisora.data import (
    Bucket,
    ClipData,
    PromptData,
    batch_indices,
    pick,
)
from minisora.vae import to_frames, to_pixels
from minisora.views import Captions, Latents, Pixels
from minisora.world import language

WHOLE = {17: 1.0}  # lengths: all clips are whole


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
    view = Captions(vae_folder, WHOLE, short_steps=2)
    data = prepared(ClipData(view, clips=8, batch_size=8))

    def short_batches() -> list[bool]:
        """Whether each batch, an epoch of its own, has the short captions."""
        captions = (data.batch(step)["captions"] for step in range(5))
        return [sorted(each) == sorted(view.short_captions) for each in captions]

    assert short_batches() == [True, True, False, False, False]
    data.trainer = Trainer(accumulate_grad_batches=2, logger=False)
    assert short_batches() == [True, True, True, True, False]


# Sizes and lengths. A small VAE makes 1 x 1 to 2 x 3 latents of a group of frames of these sizes.

SIZES = [[16, 16], [16, 24], [8, 8]]
LENGTHS = {1: 0.2, 5: 0.3, 9: 0.5}


def various(vae_folder: str, **options) -> ClipData:
    """Clips of three sizes and three lengths."""
    view = Latents(vae_folder, options.pop("lengths", LENGTHS), **options.pop("view", {}))
    given = {"clips": 60, "batch_size": 8, "num_frames": 9, "sizes": SIZES}
    return ClipData(view, **given | options)


@pytest.fixture
def mixed(vae_folder: str, in_float32: None) -> ClipData:
    return prepared(various(vae_folder))


def shapes(data: ClipData) -> set[tuple[int, ...]]:
    """The shapes of the latents of a hundred steps."""
    return {tuple(data.batch(step)["latents"].shape) for step in range(100)}


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (8, 4, 3, 2, 2)),
        ({"batch_size": 5}, (5, 4, 3, 2, 2)),
        ({"num_frames": 17}, (8, 4, 5, 2, 2)),
        ({"num_frames": 17, "lengths": {13: 1.0}}, (8, 4, 4, 2, 2)),
        ({"sizes": [[24, 8]]}, (8, 4, 3, 3, 1)),
    ],
    ids=["default", "batch_size", "num_frames", "lengths", "sizes"],
)
def test_each_setting_changes_the_shape_of_the_latents(
    vae_folder: str, options: dict, shape: tuple[int, ...]
) -> None:
    given = {"sizes": [[16, 16]], "num_frames": 9}
    given |= {"lengths": {options.get("num_frames", 9): 1.0}}
    assert shapes(prepared(various(vae_folder, **given | options))) == {shape}


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (4, 3, 5, 16, 16)),
        ({"batch_size": 2}, (2, 3, 5, 16, 16)),
        ({"num_frames": 9}, (4, 3, 9, 16, 16)),
        ({"sizes": [[8, 24]]}, (4, 3, 5, 8, 24)),
    ],
    ids=["default", "batch_size", "num_frames", "sizes"],
)
def test_each_setting_changes_the_shape_of_the_pixels(
    options: dict, shape: tuple[int, ...]
) -> None:
    given = {"clips": 8, "batch_size": 4, "num_frames": 5, "sizes": [[16, 16]]}
    assert prepared(ClipData(Pixels(), **given | options)).batch(0)["video"].shape == shape


def test_every_size_and_length_comes_up(mixed: ClipData) -> None:
    found = {shape[2:] for shape in shapes(mixed)}
    assert found == {(t, h // 8, w // 8) for t in (1, 2, 3) for h, w in SIZES}


def buckets(data: ClipData, steps: int = 4000) -> list[Bucket]:
    return [data.bucket(step) for step in range(steps)]


def test_every_size_has_the_same_share_of_the_steps(vae_folder: str) -> None:
    counts = Counter(bucket.size for bucket in buckets(various(vae_folder)))
    assert all(abs(counts[size] / 4000 - 1 / 3) < 0.03 for size in range(3))


def test_every_length_has_its_share_of_the_steps(vae_folder: str) -> None:
    counts = Counter(bucket.frames for bucket in buckets(various(vae_folder)))
    assert all(abs(counts[frames] / 4000 - share) < 0.03 for frames, share in LENGTHS.items())


def test_size_and_length_are_drawn_apart(vae_folder: str) -> None:
    counts = Counter(buckets(various(vae_folder)))
    for (size, frames), share in {
        (s, t): LENGTHS[t] / 3 for s in range(3) for t in LENGTHS
    }.items():
        assert abs(counts[Bucket(size, frames)] / 4000 - share) < 0.03


def test_shares_are_relative_to_their_sum() -> None:
    drawn = [pick({"a": 1.0, "b": 3.0}, each) for each in (0.0, 0.24, 0.26, 0.999)]
    assert drawn == ["a", "a", "b", "b"]


@pytest.mark.parametrize("length", [1, 5, 9])
@pytest.mark.parametrize("size", range(3))
def test_every_step_has_about_as_many_tokens_as_the_usual_one(
    vae_folder: str, size: int, length: int
) -> None:
    """As near as whole clips come."""
    data = various(vae_folder)
    bucket = Bucket(size, length)
    latents, usual = (data.view.latents_of(data, each) for each in (bucket, data.usual))
    off = data.view.batch_size(data, bucket) * latents - data.batch_size * usual
    assert abs(off) <= latents / 2


def test_a_step_of_long_clips_has_one_at_least(vae_folder: str) -> None:
    data = various(vae_folder, batch_size=1, lengths={1: 0.9, 9: 0.1})
    assert data.view.batch_size(data, Bucket(1, 9)) == 1


def test_the_usual_clip_is_of_the_first_size_and_the_most_frequent_length(vae_folder: str) -> None:
    assert various(vae_folder, lengths={1: 0.2, 5: 0.5, 9: 0.3}).usual == Bucket(0, 5)


def test_of_equally_frequent_lengths_the_longest_is_usual(vae_folder: str) -> None:
    assert various(vae_folder, lengths={5: 0.5, 9: 0.5, 1: 0.1}).usual == Bucket(0, 9)


def test_validation_clips_are_usual_ones(vae_folder: str) -> None:
    data = various(vae_folder, lengths={1: 0.2, 5: 0.5, 9: 0.3}, validation_clips=3)
    (batch,) = data.val_dataloader()
    assert batch["video"].shape == (3, 3, 5, 16, 16)


def test_clips_are_dealt_to_the_sizes_in_turn(mixed: ClipData) -> None:
    frames = [mixed.clip(i).frames.shape[1:3] for i in range(6)]
    assert frames == [(h, w) for h, w in SIZES * 2]


def test_a_step_has_clips_of_its_size_only(mixed: ClipData) -> None:
    for step in range(20):
        assert {int(i) % 3 for i in mixed.indices(step)} == {mixed.bucket(step).size}


@pytest.mark.parametrize("step", range(8))
def test_latents_are_those_of_the_clips_of_the_step(mixed: ClipData, step: int) -> None:
    frames = mixed.bucket(step).frames
    clips = np.stack([mixed.clip(i, frames).frames for i in mixed.indices(step)])
    encoded = mixed.view.vae.encode(to_pixels(clips))
    assert torch.allclose(mixed.batch(step)["latents"], encoded, atol=0.01)  # float16


@pytest.mark.parametrize("step", range(8))
def test_captions_are_those_of_the_length(mixed: ClipData, step: int) -> None:
    frames = mixed.bucket(step).frames
    captions = [mixed.clip(i, frames).caption for i in mixed.indices(step)]
    assert mixed.batch(step)["captions"] == captions


def test_an_image_has_a_caption_without_motion(mixed: ClipData) -> None:
    step = next(step for step in range(60) if mixed.bucket(step).frames == 1)
    image = mixed.clip(int(mixed.indices(step)[0]), num_frames=1)
    assert mixed.batch(step)["captions"][0] == image.caption
    assert not {"moving", "growing", "standing"} & set(image.caption.split())


@pytest.mark.parametrize(("frames", "happens"), [(1, False), (17, True)], ids=["image", "clip"])
def test_an_event_is_told_of_clips_that_show_it(
    vae_folder: str, frames: int, happens: bool
) -> None:
    view = Latents(vae_folder, {1: 0.5, 17: 0.5})
    data = prepared(ClipData(view, {"events": 1.0}, clips=8, batch_size=8, sizes=[[16, 16]]))
    step = next(step for step in range(60) if data.bucket(step).frames == frames)
    captions = data.batch(step)["captions"]
    assert {"then" in text or "turning into" in text for text in captions} == {happens}


def test_a_captioner_sees_clips_of_one_size_and_length_a_step(vae_folder: str) -> None:
    view = Captions(vae_folder, LENGTHS, short_steps=0)
    data = prepared(ClipData(view, clips=12, batch_size=4, num_frames=9, sizes=SIZES))
    for step in range(10):
        bucket = data.bucket(step)
        shape = (4, bucket.frames, *SIZES[bucket.size], 3)
        assert data.batch(step)["clips"].shape == shape


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_if_not_said_one_step_in_seven_has_shorter_clips(vae_folder: str, groups: int) -> None:
    share = {1: 0.075, 2: 0.075, 3: 0.85}[groups]
    assert various(vae_folder, lengths=None).view.durations(9)[4 * groups - 3] == share


def test_an_image_is_no_shorter_clip(vae_folder: str) -> None:
    assert Latents(vae_folder).durations(1) == {1: 1.0}


# Steps and ranks


def same(a: dict, b: dict) -> bool:
    """Whether two batches are equal to the bit."""
    return all(
        torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        for name, value in a.items()
    )


def trainer(**changes: int) -> SimpleNamespace:
    """What batches depend on of a trainer: where it is in its run, and which rank it is."""
    given = {"global_step": 0, "accumulate_grad_batches": 1, "global_rank": 0, "world_size": 1}
    return SimpleNamespace(**given | changes)


@pytest.fixture
def with_modes(vae_folder: str, in_float32: None) -> ClipData:
    return prepared(various(vae_folder, view={"known": 0.6}))


def test_batches_of_all_kinds_are_a_function_of_the_step(
    with_modes: ClipData, vae_folder: str
) -> None:
    """Also in another process, which has drawn no batch before."""
    before = [with_modes.batch(step) for step in range(8)]
    other = prepared(various(vae_folder, view={"known": 0.6}))
    assert all(same(before[step], other.batch(step)) for step in reversed(range(8)))


def test_a_resumed_run_goes_on_with_the_next_batch(with_modes: ClipData) -> None:
    expected = with_modes.batch(3) | {"step": 3}
    with_modes.trainer = trainer(global_step=3)
    assert same(next(iter(with_modes.train_dataloader())), expected)


def test_a_resumed_run_counts_gathered_batches(with_modes: ClipData) -> None:
    with_modes.trainer = trainer(global_step=3, accumulate_grad_batches=2)
    assert next(iter(with_modes.train_dataloader()))["step"] == 6


def test_ranks_share_size_and_length_but_no_clip(vae_folder: str) -> None:
    data = various(vae_folder, clips=60_000)
    for step in range(20):
        buckets, clips = [], []
        for rank in range(2):
            data.trainer = trainer(global_rank=rank, world_size=2)
            buckets.append(data.bucket(step))
            clips.append({*map(int, data.indices(step))})
        assert buckets[0] == buckets[1]
        assert not clips[0] & clips[1]


def test_ranks_draw_their_own_modes(with_modes: ClipData) -> None:
    drawn = []
    for rank in range(2):
        with_modes.trainer = trainer(global_rank=rank, world_size=2)
        drawn.append([with_modes.batch(step)["modes"] for step in range(10)])
    assert drawn[0] != drawn[1]


# Windows: clips with known tokens are cut from anywhere


@pytest.fixture
def windows(vae_folder: str, in_float32: None) -> list[dict]:
    """Clips of three latents from whole clips of nine: what a batch says of each, with the index of
    its clip, all latents of that clip, and the group that it begins with, if that is certain."""
    view = Latents(vae_folder, {9: 1.0}, known=0.9)
    data = ClipData(view, clips=16, batch_size=16, num_frames=33, sizes=[[16, 16]])
    prepared(data)
    found = []
    for step in range(8):
        batch = data.batch(step)
        for row, index in enumerate(data.indices(step)):
            whole, latents = view.latents[0][index].float(), batch["latents"][row]
            tails = [f for f in range(7) if torch.equal(whole[:, f + 1 : f + 3], latents[:, 1:])]
            about = {"mode": batch["modes"][row], "start": int(batch["start"][row])}
            about |= {"caption": batch["captions"][row], "data": data, "index": int(index)}
            found.append(about | {"whole": whole, "latents": latents, "first": tails})
    return found


def test_every_window_is_latents_of_its_clip_in_a_row(windows: list[dict]) -> None:
    """But for its first, which may be of one frame."""
    assert all(window["first"] for window in windows)


def test_clips_from_text_and_from_an_image_begin_at_frame_0(windows: list[dict]) -> None:
    chosen = [each for each in windows if each["mode"] in ("text", "animate", "inpaint")]
    assert len(chosen) > 20
    assert all(torch.equal(each["latents"], each["whole"][:, :3]) for each in chosen)
    assert not any(each["start"] for each in chosen)


def test_other_modes_begin_anywhere(windows: list[dict]) -> None:
    chosen = [each for each in windows if each["mode"] not in ("text", "animate", "inpaint")]
    assert {first for each in chosen for first in each["first"]} == set(range(7))


def test_a_window_without_a_latent_of_one_frame_says_so(windows: list[dict]) -> None:
    """Its latents are the clip's own, from the second on."""
    chosen = [each for each in windows if each["start"] == 1]
    assert len(chosen) > 10
    for each in chosen:
        own = [each["whole"][:, f : f + 3] for f in range(1, 7)]
        assert any(torch.equal(each["latents"], latents) for latents in own)


def test_a_window_that_begins_with_an_image_is_encoded_as_its_frames_alone(
    windows: list[dict],
) -> None:
    inside = [each for each in windows if each["start"] == 0 and each["first"][0] > 0]
    assert len(inside) > 10
    for each in inside:
        data = each["data"]
        first = 4 * each["first"][0]  # the last frame of its group
        first += data.view.late_frames(data, each["index"])
        frames = data.clip(each["index"], first + 9).frames[first:]
        (encoded,) = data.view.vae.encode(to_pixels(frames[None]))
        assert torch.allclose(each["latents"], encoded, atol=0.01)  # float16


def test_a_clip_that_starts_late_is_never_from_text_alone(windows: list[dict]) -> None:
    for each in windows:
        data = each["data"]
        assert each["mode"] != "text" or not data.view.late_frames(data, each["index"])


def test_groups_begin_at_any_frame(vae_folder: str) -> None:
    data = ClipData(Latents(vae_folder, {9: 1.0}, known=0.4), clips=400, num_frames=9)
    late = Counter(data.view.late_frames(data, i) for i in range(400))
    assert 0.14 < 1 - late[0] / 400 < 0.26  # half of 40%
    assert min(late[frames] for frames in (1, 2, 3)) > 10


def test_clips_that_say_when_something_happens_never_start_late(vae_folder: str) -> None:
    view = Latents(vae_folder, {17: 1.0}, known=0.9)
    data = ClipData(view, clips=100, num_frames=17, worlds={"events": 1.0})
    assert not any(view.late_frames(data, i) for i in range(100))


@pytest.mark.parametrize("world", ["shapes", "events"])
def test_a_share_of_the_clips_has_known_tokens(vae_folder: str, world: str) -> None:
    view = Latents(vae_folder, {17: 1.0}, known=0.4)
    data = ClipData(view, clips=2000, num_frames=17, worlds={world: 1.0})
    generator = torch.Generator().manual_seed(0)
    modes = [view.draw_mode(data, i, 5, generator) for i in range(2000)]
    assert 0.36 < np.mean([mode != "text" for mode in modes]) < 0.44


def test_about_half_of_the_windows_inside_begin_with_an_image(windows: list[dict]) -> None:
    inside = [each["start"] for each in windows if each["first"][0] > 0]
    assert 0.3 < np.mean(inside) < 0.7


def test_a_window_has_the_caption_of_its_clip(windows: list[dict]) -> None:
    assert all(each["caption"] == each["data"].clip(each["index"]).caption for each in windows)


def test_without_known_tokens_every_clip_is_from_text(mixed: ClipData) -> None:
    for step in range(10):
        batch = mixed.batch(step)
        assert set(batch["modes"]) == {"text"}
        assert not batch["start"].any()


# Packed rows


@pytest.fixture
def packed(vae_folder: str, in_float32: None) -> ClipData:
    return prepared(various(vae_folder, view={"packed": True, "known": 0.4}))


def count_latents(clips: list[torch.Tensor]) -> int:
    return sum(clip[0].numel() for clip in clips)


def test_a_row_has_clips_of_many_shapes(packed: ClipData) -> None:
    assert len({clip.shape for clip in packed.batch(0)["latents"]}) > 2


def test_a_row_is_no_longer_than_a_usual_batch(packed: ClipData) -> None:
    usual = packed.batch_size * packed.view.latents_of(packed, packed.usual)
    lengths = [count_latents(packed.batch(step)["latents"]) for step in range(20)]
    assert max(lengths) <= usual
    assert min(lengths) > 0.9 * usual


def test_a_row_says_the_same_of_all_its_clips(packed: ClipData) -> None:
    batch = packed.batch(0)
    assert len({len(values) for values in batch.values()}) == 1


def test_rows_are_a_function_of_the_step(packed: ClipData) -> None:
    a, b, c = (packed.batch(step) for step in (5, 5, 6))
    assert all(map(torch.equal, a["latents"], b["latents"]))
    assert a["captions"] == b["captions"] != c["captions"]


def test_lengths_have_their_share_of_the_latents_of_a_row(packed: ClipData) -> None:
    """As they have in steps of one size and length each."""
    counts: Counter = Counter()
    for step in range(150):
        for clip in packed.batch(step)["latents"]:
            counts[4 * clip.shape[1] - 3] += clip[0].numel()
    for frames, share in LENGTHS.items():
        assert abs(counts[frames] / counts.total() - share) < 0.05


# Captions


def test_captions_are_ordered_at_first(vae_folder: str) -> None:
    view = Latents(vae_folder, WHOLE, ordered_steps=1)
    data = prepared(ClipData(view, {"pairs": 1.0}, clips=16, batch_size=16))
    ordered, free = (data.batch(step)["captions"] for step in range(2))
    assert ordered == [language.in_order(caption) for caption in ordered]
    assert free != [language.in_order(caption) for caption in free]


@pytest.fixture
def captioned(vae_folder: str) -> ClipData:
    """The first step has short captions, the second rich ones."""
    view = Captions(vae_folder, WHOLE, short_steps=1)
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
    ("lengths", "durations"),
    [({9: 1.0}, [9]), (None, [1, 5, 9]), ({9: 0.5, 1: 0.5, 5: 0.0}, [1, 9])],
    ids=["whole", "if not said", "chosen"],
)
def test_the_durations_are_those_of_the_view(
    vae_folder: str, lengths: dict | None, durations: list[int]
) -> None:
    data = ClipData(Latents(vae_folder, lengths), clips=1, num_frames=9)
    assert data.trained_on["durations"] == durations


def test_the_sizes_are_heights_and_widths() -> None:
    data = ClipData(Pixels(), clips=2, sizes=[[32, 48], [16, 8]])
    assert data.trained_on["sizes"] == [[32, 48], [16, 8]]


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 16}, r"1 \+ 4k, got 16: the nearest is 17"),
        ({"seed": -1}, r"seed must be from 0 to 2\^63 - 1, got -1"),
        ({"clips": 0}, "clips must be 1 or more"),
        ({"worlds": {"room": 1.0}}, "no world 'room'"),
        ({"clips": 1, "sizes": [[32, 32], [8, 8]]}, "1 clips are too few for 2 sizes"),
        ({"sizes": [[32]]}, r"data.sizes holds \[height, width\] each, got \[32\]"),
        ({"sizes": [[32, 0]]}, "width must be 1 or more, got 0"),
    ],
    ids=["frames", "seed", "clips", "world", "few clips", "no width", "width 0"],
)
def test_impossible_data_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClipData(Pixels(), **arguments)


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        (None, {"sizes": [[32, 32], [36, 32]]}, "sizes must be multiples of 8, got 36 x 32"),
        ({8: 1.0}, {}, r"data.view.lengths are 1 \+ 4k frames, got 8"),
        ({0: 1.0}, {}, "frames must be 1 or more, got 0"),
        ({9: 1.5}, {}, "share is a share, from 0 to 1, got 1.5"),
        ({33: 1.0}, {}, "has 33 frames, clips have 17: set data.num_frames"),
        (
            {9: 0.5, 17: 0.5},
            {"worlds": {"events": 0.1, "shapes": 0.9}},
            "world events are cut to 1 frame or to 17 or more, not to 9",
        ),
    ],
    ids=["size", "inside a group", "no frames", "share", "too long", "cut event"],
)
def test_impossible_sizes_and_lengths_are_refused(
    vae_folder: str, lengths: dict | None, options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ClipData(Latents(vae_folder, lengths), **options)


def test_events_without_a_share_may_be_cut(vae_folder: str) -> None:
    worlds = {"events": 0.0, "shapes": 1.0}
    data = ClipData(Latents(vae_folder, {9: 0.5, 17: 0.5}), worlds)
    assert data.trained_on["durations"] == [9, 17]
