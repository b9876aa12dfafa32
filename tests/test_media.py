"""Files as prompts: what users have is fitted to a canvas, and what is made says how."""

from pathlib import Path

import numpy as np
import pytest
from conftest import refused
from PIL import Image

from minisora import InputError, Sora, media, video, world
from minisora.canvas import MODES
from minisora.cli import MODE_COMMANDS, main

STAR = "a large yellow star moving down on a navy background"


@pytest.fixture
def clip(tmp_path: Path) -> str:
    """A clip of the toy world in a file, enlarged as users' clips are."""
    frames = world.clip(0, 3, 17).frames
    return str(video.write(tmp_path / "given.webp", frames, scale=4))


@pytest.fixture
def mask(tmp_path: Path) -> str:
    """An image whose left half is white."""
    white = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    white[:, :, :32] = 255
    return str(video.write(tmp_path / "mask.png", white))


@pytest.fixture
def untrained(tiny_sora: Sora, tmp_path: Path) -> str:
    """The bundle of a model whose clips are noise."""
    tiny_sora.save(tmp_path / "weights")
    return str(tmp_path / "weights")


def make(mode: str, clip: str, mask: str, out: Path, weights: str, *more: str) -> np.ndarray:
    """The clip that a mode's command makes of a file, at one pixel a pixel."""
    files = [clip] * len(MODE_COMMANDS[mode][1])
    region = ["--mask", mask] if mode == "inpaint" else []
    place = ["--out", str(out), "--weights", weights, "--scale", "1"]
    main([mode, *files, STAR, *region, *place, *more])
    return video.read(out)


# Every mode on the command line

EVERY_MODE = pytest.mark.parametrize("mode", MODE_COMMANDS)


def test_every_mode_but_text_has_a_command() -> None:
    named = {name.split()[0] for name in MODES}
    assert named == {"text", *MODE_COMMANDS}


@EVERY_MODE
def test_every_mode_makes_a_clip(
    mode: str, clip: str, mask: str, untrained: str, tmp_path: Path
) -> None:
    made = make(mode, clip, mask, tmp_path / "made.webp", untrained)
    assert made.shape[1:] == (32, 32, 3)
    assert len(made) >= 17


@pytest.mark.parametrize("mode", ["extend", "loop", "connect"])
def test_given_frames_come_first(
    mode: str, clip: str, mask: str, untrained: str, tmp_path: Path
) -> None:
    made = make(mode, clip, mask, tmp_path / "made.webp", untrained)
    kept = 14 if mode == "loop" else 17  # up to three give way to the length of a loop
    assert np.array_equal(made[:kept], world.clip(0, 3, 17).frames[:kept])


def test_a_clip_is_animated_from_its_last_frame(
    clip: str, mask: str, untrained: str, tmp_path: Path
) -> None:
    made = make("animate", clip, mask, tmp_path / "made.webp", untrained)
    assert np.array_equal(made[0], world.clip(0, 3, 17).frames[-1])


def test_sampling_can_begin_where_a_clip_ends(clip: str, untrained: str, tmp_path: Path) -> None:
    out = tmp_path / "made.webp"
    options = ["--from", clip, "--out", str(out), "--weights", untrained, "--scale", "1"]
    main(["sample", STAR, *options])
    assert np.array_equal(video.read(out)[0], world.clip(0, 3, 17).frames[-1])


def test_the_direction_of_an_extension_can_be_said(
    clip: str, mask: str, untrained: str, tmp_path: Path
) -> None:
    more = ("--direction", "backward")
    made = make("extend", clip, mask, tmp_path / "made.webp", untrained, *more)
    assert np.array_equal(made[-17:], world.clip(0, 3, 17).frames)


def test_outside_a_mask_nothing_changes(
    clip: str, mask: str, untrained: str, tmp_path: Path
) -> None:
    made = make("inpaint", clip, mask, tmp_path / "made.webp", untrained)
    assert np.array_equal(made[:, :, 16:], world.clip(0, 3, 17).frames[:, :, 16:])


def test_without_a_prompt_the_caption_is_printed(
    clip: str, untrained: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    main(["extend", clip, "--out", str(tmp_path / "made.gif"), "--weights", untrained])
    assert f"completed prompt: {world.clip(0, 3, 17).caption}\n" in capsys.readouterr().out


@pytest.mark.parametrize("modes", [["text"], ["text", "extend"]])
def test_seconds_are_eighths(tiny_sora: Sora, tmp_path: Path, modes: list[str]) -> None:
    """Whether the model samples all of them at once, or goes on window by window."""
    tiny_sora.trained_on = tiny_sora.trained_on | {"modes": modes}
    tiny_sora.save(tmp_path / "weights")
    out = tmp_path / "made.webp"
    main(["sample", STAR, "--seconds", "5", "--out", str(out), "--weights", f"{tmp_path}/weights"])
    assert len(video.read(out)) == 41


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["animate", "{here}/none.png"], "no such file"),
        (["extend", "{clip}", STAR, "--num-frames", "9"], "must be 18 or more, got 9"),
        (["loop", "{clip}", STAR, "--num-frames", "22"], "the nearest is 21 in all"),
        (["edit", "{clip}", "sing a song"], "names nothing that can change"),
        (["edit", "{clip}", STAR, "--strength", "2"], "strength must be from 0 to 1, got 2.0"),
        (["inpaint", "{clip}", STAR, "--mask", "{here}/wide.png"], "it must have its ratio"),
        (["inpaint", "{clip}", STAR, "--mask", "{here}/black.png"], "the mask is empty"),
        (["animate", "{clip}", STAR, "--height", "30"], "height must be a multiple of 8, got 30"),
        (["animate", "{clip}", ""], "the prompt is empty"),
    ],
    ids=["file", "length", "loop", "request", "strength", "mask", "black", "height", "prompt"],
)
def test_what_cannot_be_made_is_refused(
    arguments: list[str],
    message: str,
    clip: str,
    untrained: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    black = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    video.write(tmp_path / "black.png", black)
    video.write(tmp_path / "wide.png", black[:, :16])
    out = tmp_path / "made.mp4"
    filled = [text.format(here=tmp_path, clip=clip) for text in arguments]
    assert message in refused(capsys, *filled, "--weights", untrained, "--out", out)
    assert not out.exists()


# Fitting


def test_nothing_of_a_picture_is_cut_off() -> None:
    picture = np.full((40, 100, 3), 200, dtype=np.uint8)
    picture[:4, :4] = picture[-4:, -4:] = 0
    fitted = video.fit(picture, 32, 32)
    dark = np.argwhere(fitted.mean(-1) < 100)
    assert dark.min(0).tolist() == [9, 0]  # 13 rows of picture in 32
    assert dark.max(0).tolist() == [21, 31]


def test_what_is_added_has_the_color_of_the_border() -> None:
    picture = np.full((40, 100, 3), (10, 60, 90), dtype=np.uint8)
    picture[10:30, 40:60] = 255
    assert (video.fit(picture, 32, 32)[:9] == (10, 60, 90)).all()


def test_enlarged_pixels_are_found_again() -> None:
    picture = world.clip(0, 0, 1).frames[0]
    large = picture.repeat(8, axis=0).repeat(8, axis=1)
    assert np.array_equal(video.fit(large, 32, 32), picture)


GENERALIST = {"sizes": [[32, 32], [24, 40], [32, 56], [56, 32]]}


@pytest.mark.parametrize(
    ("shape", "size"),
    [((64, 64), (32, 32)), ((360, 640), (32, 56)), ((640, 360), (56, 32)), ((60, 100), (24, 40))],
)
def test_the_canvas_has_the_most_similar_trained_ratio(
    tiny_sora: Sora, tmp_path: Path, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    tiny_sora.trained_on = tiny_sora.trained_on | GENERALIST
    path = video.write(tmp_path / "clip.png", np.zeros((1, *shape, 3), dtype=np.uint8))
    assert media.canvas_size(tiny_sora, str(path), None, None) == size


def test_the_canvas_is_that_on_which_a_file_was_made(tiny_sora: Sora, tmp_path: Path) -> None:
    made = media.provenance(tiny_sora, "sample", STAR, 0, height=48, width=48)
    path = video.write(tmp_path / "a.png", np.zeros((1, 48, 48, 3), np.uint8), 8, 4, made)
    assert media.canvas_size(tiny_sora, str(path), None, None) == (48, 48)


def test_what_is_asked_for_comes_first(tiny_sora: Sora, clip: str) -> None:
    assert media.canvas_size(tiny_sora, clip, 40, 48) == (40, 48)


def test_a_border_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = video.write(tmp_path / "clip.png", np.zeros((1, 40, 100, 3), dtype=np.uint8))
    media.read_clip(str(path), (32, 32))
    assert "40 x 100 is fitted to 32 x 32, with 19 rows of border" in capsys.readouterr().out


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (media.read_clip(str(tmp_path / "clear.png"), (32, 32)) == 255).all()


def test_rotated_photos_stand_upright(tmp_path: Path) -> None:
    photo, exif = Image.new("RGB", (64, 32)), Image.Exif()
    photo.paste((255, 255, 255), (0, 0, 32, 32))
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    photo.save(tmp_path / "photo.jpg", exif=exif)
    (frame,) = media.read_clip(str(tmp_path / "photo.jpg"), (64, 32))
    assert frame[:28].min() > 200
    assert frame[36:].max() < 50


# Provenance

EVERY_SUFFIX = pytest.mark.parametrize("suffix", video.SUFFIXES)


@EVERY_SUFFIX
@pytest.mark.parametrize("count", [1, 17])
def test_a_file_keeps_how_it_was_made(
    tiny_sora: Sora, tmp_path: Path, suffix: str, count: int
) -> None:
    made = media.provenance(tiny_sora, "sample", 'a "red" ☆', 3, height=32, width=32)
    path = video.write(tmp_path / f"a{suffix}", world.clip(0, 0, count).frames, about=made)
    assert video.about(path) == made


@EVERY_SUFFIX
def test_a_note_changes_no_frame(tmp_path: Path, suffix: str) -> None:
    frames = world.clip(0, 0).frames
    plain = video.read(video.write(tmp_path / f"a{suffix}", frames))
    noted = video.read(video.write(tmp_path / f"b{suffix}", frames, about={"prompt": STAR}))
    assert nearly_equal(plain, noted)


def nearly_equal(a: np.ndarray, b: np.ndarray) -> bool:
    """The first mp4 of a process is encoded slightly differently from all later ones."""
    return a.shape == b.shape and bool(np.abs(a.astype(int) - b).max() < 16)


@EVERY_SUFFIX
def test_other_files_have_no_note(tmp_path: Path, suffix: str) -> None:
    path = video.write(tmp_path / f"a{suffix}", world.clip(0, 0).frames)
    assert video.about(path) == {}


@pytest.mark.parametrize("comment", ["[1, 2]", "{", "hello", "7", "[" * 100_000])
def test_a_comment_of_another_program_is_no_note(tmp_path: Path, comment: str) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.gif", comment=comment.encode())
    assert video.about(tmp_path / "a.gif") == {}


def test_a_file_says_that_a_model_made_it(
    untrained: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = str(tmp_path / "made.mp4")
    main(["sample", STAR, "--out", out, "--seed", "5", "--weights", untrained])
    main(["caption", out])
    said = capsys.readouterr().out
    assert f'made by a model (minisora 0.1.0, mode sample, seed 5): "{STAR}"' in said


@pytest.mark.parametrize("name", ["weights", "mode", "prompt", "seed", "software", "note"])
def test_the_note_has_what_is_needed_to_make_a_clip_again(tiny_sora: Sora, name: str) -> None:
    assert media.provenance(tiny_sora, "sample", STAR, 0)[name] is not None


# Frames that come in parts


def test_a_clip_may_be_written_in_parts(tmp_path: Path) -> None:
    frames = world.clip(0, 0).frames
    whole = video.read(video.write(tmp_path / "a.mp4", frames))
    parts = video.read(video.write(tmp_path / "b.mp4", iter([frames[:1], frames[1:]])))
    assert nearly_equal(whole, parts)


def test_a_clip_that_ends_early_is_not_written(tmp_path: Path) -> None:
    def parts():
        yield world.clip(0, 0).frames
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        video.write(tmp_path / "a.mp4", parts())
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("option", [["--height", "0"], ["--width", "-8"], ["--width", "20"]])
def test_impossible_sides_are_refused(
    option: list[str], clip: str, untrained: str, capsys: pytest.CaptureFixture
) -> None:
    said = refused(capsys, "extend", clip, STAR, *option, "--weights", untrained)
    assert f"must be a multiple of 8, got {option[1]}" in said


@pytest.mark.parametrize("side", [10**8, 33, -8, "32", True])
def test_a_size_that_a_stranger_wrote_into_a_file_is_not_believed(
    tiny_sora: Sora, tmp_path: Path, side: object
) -> None:
    about = {"height": side, "width": side}
    path = video.write(tmp_path / "a.png", np.zeros((1, 32, 32, 3), np.uint8), about=about)
    assert media.canvas_size(tiny_sora, str(path), None, None) == (32, 32)


def test_sides_that_fill_the_memory_are_refused(tiny_sora: Sora, clip: str) -> None:
    with pytest.raises(InputError, match="the most is 16,384"):
        media.canvas_size(tiny_sora, clip, 8_000_000, None)


def test_a_note_does_not_act_on_the_terminal() -> None:
    note = {"digitalSourceType": "trainedAlgorithmicMedia", "prompt": "a\x1b[2Jb\ud800c\nd"}
    assert media.summary(note) == 'made by a model (): "a?[2Jb?c?d"'
