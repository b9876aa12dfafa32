"""What the notebooks use: proofs that two things are the same, checks of exercises, pictures."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from minisora import nb, world
from minisora.flow import shift_levels

# same


def test_same_proves(capsys: pytest.CaptureFixture) -> None:
    t = torch.linspace(0, 1, 5)
    nb.same(lambda t, s: s * t / (1 + (s - 1) * t), shift_levels, t, 3.0)
    assert capsys.readouterr().out == "✓ the same as minisora's shift_levels\n"


def test_same_raises_with_the_first_difference() -> None:
    t = torch.linspace(0, 1, 5)
    with pytest.raises(AssertionError, match=r"shift_levels: expected 0\.5 at \(1,\), got 0\.25"):
        nb.same(lambda t, s: t, shift_levels, t, 3.0)


def two(x: float):
    yield x
    yield 2 * x


def test_same_runs_generators_to_their_end() -> None:
    nb.same(two, lambda x: [x, 2 * x], 3.0)


def test_same_counts_what_a_generator_yields() -> None:
    with pytest.raises(AssertionError, match="expected 1 things, got 2"):
        nb.same(two, lambda x: [x], 3.0)


# check


def minus(a: float, b: float) -> float:
    return a - b


def swapped(a: float, b: float) -> float:
    return b - a


MISTAKES = {"time runs the other way": swapped}


def test_check_accepts_a_right_answer(capsys: pytest.CaptureFixture) -> None:
    assert nb.check(lambda a, b: a - b, minus, (3.0, 1.0), mistakes=MISTAKES)
    assert "✓ right" in capsys.readouterr().out


@pytest.mark.parametrize(
    "said", ["-2 is too small (for 3.0, 1.0)", "likely: time runs the other way"]
)
def test_check_says_how_it_is_wrong_and_the_likely_mistake(
    said: str, capsys: pytest.CaptureFixture
) -> None:
    assert not nb.check(swapped, minus, (3.0, 1.0), mistakes=MISTAKES)
    assert said in capsys.readouterr().out


def stub(a: float) -> None: ...


def not_yet(a: float) -> None:
    raise NotImplementedError


def broken(a: float) -> float:
    return a.missing  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (stub, "not answered yet"),
        (not_yet, "not answered yet"),
        (broken, "stops with AttributeError"),
        (lambda a: torch.zeros(2), r"expected the shape (), got (2,)"),
        (lambda a: float("nan"), "nan is no number"),
        (lambda a: "text", "expected a number, got str 'text'"),
    ],
    ids=["stub", "not implemented", "broken", "shape", "nan", "text"],
)
def test_check_fails_with_a_sentence(answer, message: str, capsys: pytest.CaptureFixture) -> None:
    assert not nb.check(answer, lambda a: 2 * a, (2.0,))
    assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "right"),
    [(80, 80), ({"red"}, {"red"}), (["red", "blue"], {"blue", "red"})],
    ids=["number", "set", "list for a set"],
)
def test_check_accepts_plain_values(answer, right) -> None:
    assert nb.check(answer, right)


@pytest.mark.parametrize(
    ("answer", "right", "message"),
    [
        (..., 80, "not answered yet"),
        (16, 80, "one frame only"),
        ({"red", "green"}, {"blue", "red"}, "1 of 2 are found, 1 do not belong"),
    ],
    ids=["left open", "a known mistake", "set"],
)
def test_check_refuses_plain_values(
    answer, right, message: str, capsys: pytest.CaptureFixture
) -> None:
    assert not nb.check(answer, right, mistakes={"one frame only": 16})
    assert message in capsys.readouterr().out


def test_check_never_tells_the_answer(capsys: pytest.CaptureFixture) -> None:
    for answer, right in ((81, 80), ("blue", "red"), (True, False), ([1, 2], [1, 80]), ("a", 80)):
        nb.check(answer, right)
    said = capsys.readouterr().out
    assert not any(word in said for word in ("80", "red", "False"))


def test_the_answer_of_an_exercise_comes_from_the_solutions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "03.py").write_text("def twice(x):\n    return 2 * x\n")
    monkeypatch.chdir(tmp_path)
    assert nb.solved(3, "twice")(4) == 8


def test_no_solutions_beside_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no solutions/03\.py"):
        nb.solved(3, "twice")


def add_in_place(x):
    x += 1
    return x


@pytest.mark.parametrize("case", [torch.zeros(3), np.zeros(3)], ids=["tensor", "array"])
def test_an_answer_may_change_its_arguments(case) -> None:
    assert nb.check(add_in_place, lambda x: x + 1, (case,))
    assert not nb.check(add_in_place, lambda x: x, (case,))


def test_an_answer_may_empty_a_list() -> None:
    assert nb.check(lambda x: sum(x.pop() for _ in range(len(x))), sum, ([1, 2],))


# show


def test_a_figure_becomes_a_small_picture() -> None:
    figure, ax = plt.subplots(figsize=(3, 2))
    ax.plot([0, 1])
    with Image.open(io.BytesIO(nb.picture(figure).png)) as image:
        assert image.mode == "P"
    assert not plt.get_fignums()  # the notebook does not show it again


def test_a_slider_shows_the_picture_of_its_value() -> None:
    pictures = {t: nb.show(np.full((2, 8, 8, 3), 100 * t, np.uint8)) for t in (0, 1, 2)}
    slider, screen = nb.step_through(pictures, "t", start=1).children
    assert screen.value == pictures[1].png
    slider.value = 2
    assert screen.value == pictures[2].png


def test_show_is_an_animated_png_with_a_page_for_every_frame(tmp_path: Path) -> None:
    clips = np.zeros((3, 5, 8, 8, 3), np.uint8)
    clips[:] = 60 * np.arange(5, dtype=np.uint8)[:, None, None, None]  # frame t is gray, 60 t
    picture = nb.show(clips, ["one", "two", "three"], columns=2, scale=4)
    file = tmp_path / "a.png"
    file.write_bytes(picture._repr_png_())
    with Image.open(file) as image:
        assert image.n_frames == 5
        for t in range(5):
            image.seek(t)
            assert image.convert("RGB").getpixel((3, 3)) == pytest.approx((60 * t,) * 3, abs=16)


def test_show_keeps_the_colors_of_small_objects() -> None:
    clips = [world.clip(0, index).frames for index in range(8)]
    with Image.open(io.BytesIO(nb.show(np.stack(clips), columns=8, scale=1).png)) as image:
        drawn = np.array(image.convert("RGB")).astype(int)
    for i, clip in enumerate(clips):
        gap = np.abs(drawn[:, 38 * i : 38 * i + 32] - clip[0])
        assert gap.max() < 64
        assert gap.mean() < 8


def test_show_takes_tensors_and_single_clips() -> None:
    video = torch.zeros(1, 3, 5, 8, 8)
    assert nb.show(video).png == nb.show(np.full((5, 8, 8, 3), 128, np.uint8)).png


def test_a_strip_is_a_png() -> None:
    assert nb.strip(torch.zeros(1, 3, 5, 8, 8)).png[:4] == b"\x89PNG"
