"""For the notebooks: `same` proves, `check` marks exercises, `show` and `strip` display clips,
`step_through` puts a slider below pictures."""

import io
import runpy
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from minisora.vae import to_frames

FONT = ImageFont.load_default(10)


class Picture:
    """A PNG that a notebook displays, animated or not: every viewer of PNGs plays it."""

    def __init__(self, frames: list[Image.Image], fps: float = 8) -> None:
        file = io.BytesIO()
        width, height = frames[0].size
        self.text = f"{len(frames)} frames of {width} x {height} pixels"
        # one tall image, so that all frames share a palette
        column = Image.fromarray(np.concatenate([np.array(frame) for frame in frames]))
        column = column.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        tops = range(0, column.height, height)
        first, *rest = (column.crop((0, top, width, top + height)) for top in tops)
        options = {"append_images": rest, "duration": round(1000 / fps), "loop": 0}
        first.save(file, "PNG", save_all=bool(rest), **options)
        self.png = file.getvalue()

    def __repr__(self) -> str:
        return self.text

    def _repr_png_(self) -> bytes:
        return self.png


def show(
    clips: Tensor | np.ndarray,
    captions: Sequence[str] = (),
    columns: int = 4,
    scale: int = 4,
    fps: float = 8,
) -> Picture:
    """Plays clips side by side, each above its caption.

    clips: tensors (B, 3, T, H, W) in [-1, 1] or uint8 arrays (B, T, H, W, 3); one clip may come
    without B.
    """
    frames = as_frames(clips)
    count, length, height, width = frames.shape[:4]
    columns, gap = min(columns, count), 6
    cell = width * scale
    texts = [wrapped(caption, cell) for caption in captions]
    below = max((text.count("\n") + 1 for text in texts), default=0) * 13
    rows = -(-count // columns)
    size = (columns * (cell + gap) - gap, rows * (height * scale + below + gap) - gap)
    pages = []
    for t in range(length):
        page = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(page)
        for i in range(count):
            x, y = i % columns * (cell + gap), i // columns * (height * scale + below + gap)
            picture = Image.fromarray(frames[i, t])
            page.paste(picture.resize((cell, height * scale), Image.Resampling.NEAREST), (x, y))
            if i < len(texts):
                draw.text((x + 1, y + height * scale), texts[i], "black", FONT, spacing=1)
        pages.append(page)
    return Picture(pages, fps)


def strip(
    clips: Tensor | np.ndarray, captions: Sequence[str] = (), every: int = 2, scale: int = 4
) -> Picture:
    """Clips as film strips from left to right, one below the other: every `every`-th frame."""
    frames = as_frames(clips)[:, ::every]
    count, length, height, width = frames.shape[:4]
    strips = frames.transpose(0, 2, 1, 3, 4).reshape(count, 1, height, length * width, 3)
    return show(strips, captions, columns=1, scale=scale)


def step_through(pictures: Mapping[Any, Any], label: str, start: int = 0) -> Any:
    """A slider that shows one of several pictures (of `show` or figures of matplotlib), each under
    its value of the knob `label`. Where there is no kernel (on GitHub) it does not move: show a
    static picture as well."""
    import ipywidgets  # comes with the course's extra

    images = [png_of(picture) for picture in pictures.values()]
    screen = ipywidgets.Image(value=images[start], format="png")
    options = [(str(value), number) for number, value in enumerate(pictures)]
    slider = ipywidgets.SelectionSlider(options=options, value=start, description=label)
    slider.observe(lambda change: setattr(screen, "value", images[change["new"]]), "value")
    return ipywidgets.VBox([slider, screen])


def picture(figure: Any, **options: Any) -> Picture:
    """A figure of matplotlib as a PNG of 256 colors, a third of its usual size. `options` are those
    of `tight_layout`."""
    import matplotlib.pyplot as plt  # comes with the course's extra

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # axes that were placed by hand stay where they are
        figure.tight_layout(**{"pad": 0.4} | options)
    plt.close(figure)  # or the notebook shows it twice
    return Picture([Image.open(io.BytesIO(png_of(figure))).convert("RGB")])


def png_of(picture: Any) -> bytes:
    """A picture or a figure of matplotlib as a PNG."""
    if isinstance(picture, Picture):
        return picture.png
    file = io.BytesIO()
    picture.savefig(file, format="png", bbox_inches="tight", pad_inches=0.04)
    return file.getvalue()


def as_frames(clips: Tensor | np.ndarray) -> np.ndarray:
    clips = clips if clips.ndim == 5 else clips[None]
    return to_frames(clips.detach()) if isinstance(clips, Tensor) else clips


def wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and FONT.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def same(mine: Any, theirs: Any, *inputs: Any, tolerance: float = 1e-5) -> None:
    """Proves that two functions agree on the inputs or, without inputs, that two values are equal.
    Raises AssertionError with the difference if not."""
    name = getattr(theirs, "__name__", type(theirs).__name__) if inputs else "values"
    left, right = (called(f, inputs) if inputs else f for f in (mine, theirs))
    wrong = difference(left, right, tolerance, tell=True)
    assert wrong is None, f"not the same as minisora's {name}: {wrong}"
    print(f"✓ the same as minisora's {name}")


def check(
    mine: Any,
    right: Any,
    *cases: tuple,
    mistakes: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
) -> bool:
    """Checks an exercise: `mine` and `right`, called on every case or, without cases, as values. It
    says how an answer is wrong ("too large"), never what is right.

    `mistakes` maps a sentence to the answer of somebody who made that mistake.
    """
    for case in cases or ((),):
        try:
            answer = called(mine, case) if cases else mine
        except NotImplementedError:
            answer = None
        except Exception as error:
            print(f"✗ it stops with {type(error).__name__}: {error}")
            return False
        if answer is None or answer is ...:
            print("· not answered yet: replace the line that is marked")
            return False
        wrong = difference(answer, called(right, case) if cases else right, tolerance)
        if wrong is not None:
            given = ", ".join(str(a) for a in case if isinstance(a, int | float | str))
            print(f"✗ {wrong}" + (f" (for {given})" if given else ""))
            for sentence, mistaken in (mistakes or {}).items():
                mistaken = called(mistaken, case) if cases else mistaken
                if difference(answer, mistaken, tolerance) is None:
                    print(f"  likely: {sentence}")
            return False
    print("✓ right")
    return True


def called(f: Callable, case: tuple) -> Any:
    copied = (a.copy() if isinstance(a, np.ndarray | list) else a for a in case)
    own = [a.clone() if isinstance(a, Tensor) else a for a in copied]  # f may write into them
    result = f(*own) if callable(f) else f
    return list(result) if hasattr(result, "__next__") else result  # a generator is run to its end


def difference(mine: Any, right: Any, tolerance: float, tell: bool = False) -> str | None:
    """One sentence on how two answers differ, None if they don't; the right one is told on demand."""
    if isinstance(right, list | tuple):
        if not isinstance(mine, list | tuple | Tensor | np.ndarray) or len(mine) != len(right):
            got = len(mine) if hasattr(mine, "__len__") else f"one {type(mine).__name__}"
            return f"expected {len(right)} things, got {got}"
        each = (difference(m, r, tolerance, tell) for m, r in zip(mine, right, strict=True))
        return next((wrong for wrong in each if wrong), None)
    if isinstance(right, set | frozenset) and isinstance(mine, set | frozenset | list | tuple):
        hits, wrong = len(right & set(mine)), len(set(mine) - right)
        if hits < len(right) or wrong:  # without telling which
            return f"{hits} of {len(right)} are found, {wrong} do not belong"
        return None
    if isinstance(right, str | bool | set | frozenset | dict):
        if mine == right:
            return None
        return f"expected {right!r}, got {mine!r}" if tell else f"it is not {mine!r}"
    try:
        a, b = (torch.as_tensor(x).detach().to("cpu", torch.float64) for x in (mine, right))
    except (TypeError, ValueError, RuntimeError):
        return f"expected {kind(right, tell)}, got {kind(mine)}"
    if a.shape != b.shape:
        return f"expected the shape {tuple(b.shape)}, got {tuple(a.shape)}"
    gap = (a - b).abs()
    if not gap.numel() or bool((gap <= tolerance * b.abs().clamp(min=1)).all()):
        return None
    at = int(gap.nan_to_num(float("inf")).argmax())
    ours, theirs = a.flatten()[at], b.flatten()[at]
    where = f" at {tuple(int(i) for i in np.unravel_index(at, b.shape))}" if b.ndim else ""
    if tell:
        return f"expected {theirs:.5g}{where}, got {ours:.5g}"
    side = "too large" if ours > theirs else "too small" if ours < theirs else "no number"
    return f"{ours:.5g}{where} is {side}"


def kind(x: Any, tell: bool = True) -> str:
    """What something is, in a few words."""
    if isinstance(x, Tensor | np.ndarray):
        return f"numbers of shape {tuple(x.shape)}"
    if isinstance(x, int | float):
        return f"a number, {x}" if tell else "a number"
    return f"{type(x).__name__} {x!r:.60}" if tell else type(x).__name__


def solved(notebook: int, name: str) -> Any:
    """What solutions/NN.py defines under a name: the answer that an exercise is checked against, out
    of sight. Raises FileNotFoundError away from the course's notebooks."""
    for folder in (Path("solutions"), Path("..", "notebooks", "solutions")):
        file = folder / f"{notebook:02d}.py"
        if file.exists():
            return runpy.run_path(str(file))[name]
    raise FileNotFoundError(f"no solutions/{notebook:02d}.py beside this notebook")
