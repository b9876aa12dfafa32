import io

import numpy as np
import pytest
import torch
from PIL import Image

from minisora import nb, world
from minisora.flow import shifted


def test_same_proves_or_raises(capsys: pytest.CaptureFixture) -> None:
    t = torch.linspace(0, 1, 5)
    nb.same(lambda t, s: s * t / (1 + (s - 1) * t), shifted, t, 3.0)
    assert capsys.readouterr().out == "✓ the same as minisora's shifted\n"
    with pytest.raises(AssertionError, match=r"shifted: expected 0\.5 at \(1,\), got 0\.25"):
        nb.same(lambda t, s: t, shifted, t, 3.0)


def test_same_runs_generators_to_their_end() -> None:
    def two(x: float):
        yield x
        yield 2 * x

    nb.same(two, lambda x: [x, 2 * x], 3.0)
    with pytest.raises(AssertionError, match="expected 1 things, got 2"):
        nb.same(two, lambda x: [x], 3.0)


def test_check_names_the_number_and_the_likely_mistake(capsys: pytest.CaptureFixture) -> None:
    mistakes = {"time runs the other way": lambda a, b: b - a}
    assert nb.check(lambda a, b: a - b, lambda a, b: a - b, (3.0, 1.0), mistakes=mistakes)
    assert not nb.check(lambda a, b: b - a, lambda a, b: a - b, (3.0, 1.0), mistakes=mistakes)
    out = capsys.readouterr().out
    assert "✓ right" in out
    assert "expected 2, got -2 (for 3.0, 1.0)" in out
    assert "likely: time runs the other way" in out


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
        (lambda a: float("nan"), "got nan"),
        (lambda a: "text", "expected a number, 4.0, got str 'text'"),
    ],
)
def test_check_fails_with_a_sentence(answer, message: str, capsys: pytest.CaptureFixture) -> None:
    assert not nb.check(answer, lambda a: 2 * a, (2.0,))
    assert message in capsys.readouterr().out


def test_check_of_plain_values(capsys: pytest.CaptureFixture) -> None:
    assert nb.check(80, 80) and nb.check({"red"}, {"red"})
    assert not nb.check(..., 80) and not nb.check(16, 80, mistakes={"one frame only": 16})
    assert "one frame only" in capsys.readouterr().out
    assert nb.check(["red", "blue"], {"blue", "red"})
    assert not nb.check({"red", "green"}, {"blue", "red"})
    assert "1 of 2 are found, 1 do not belong" in capsys.readouterr().out


def test_an_answer_may_change_its_arguments() -> None:
    def add(x):
        x += 1
        return x

    def emptied(x: list[int]) -> int:
        return sum(x.pop() for _ in range(len(x)))

    for case in (torch.zeros(3), np.zeros(3)):
        assert nb.check(add, lambda x: x + 1, (case,)) and not nb.check(add, lambda x: x, (case,))
    assert nb.check(emptied, sum, ([1, 2],))


def test_show_is_an_animated_png_with_a_page_for_every_frame(tmp_path) -> None:
    clips = np.zeros((3, 5, 8, 8, 3), np.uint8)
    clips[:] = 60 * np.arange(5, dtype=np.uint8)[:, None, None, None]
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
        assert gap.max() < 64 and gap.mean() < 8


def test_show_takes_tensors_and_single_clips() -> None:
    video = torch.zeros(1, 3, 5, 8, 8)
    assert nb.show(video).png == nb.show(np.full((5, 8, 8, 3), 128, np.uint8)).png
    assert nb.strip(video).png[:4] == b"\x89PNG"
