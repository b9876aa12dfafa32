"""The command line as users type it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused

from minisora import Sora, video, weights, world
from minisora.captioner import Captioner
from minisora.cli import EXPERIMENTS, main
from minisora.upsampler import Upsampler

STAR = "a large yellow star moving down and left on a navy background"
CIRCLE = "a red circle growing on a navy background"
TWO = "a red circle moving left above a blue star standing still on a navy background"


@pytest.fixture
def untrained(tiny_sora: Sora, tmp_path: Path) -> str:
    """The bundle of a model whose clips are noise. It has no upsampler of its own."""
    tiny_sora.save(tmp_path / "weights")
    return str(tmp_path / "weights")


@pytest.fixture
def sample(untrained: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    """`minisora sample` with the untrained model: sample(prompt, options...) returns what it
    prints."""

    def run(*arguments: str):
        main(["sample", *arguments, "--out", str(tmp_path / "clip.gif"), "--weights", untrained])
        assert (tmp_path / "clip.gif").exists()
        return capsys.readouterr()

    return run


# sample


@pytest.fixture
def demo(tmp_path: Path, capsys: pytest.CaptureFixture) -> tuple[Path, str]:
    """The file of a clip of the shipped model, and what was printed."""
    out = tmp_path / "star.mp4"
    main(["sample", STAR, "--out", str(out)])
    return out, capsys.readouterr().out


def test_a_clip_has_17_frames_of_256_pixels(demo: tuple[Path, str]) -> None:
    assert video.read(demo[0]).shape == (17, 256, 256, 3)


def test_a_clip_shows_its_prompt(demo: tuple[Path, str]) -> None:
    read = world.describe(video.read(demo[0])[:, 4::8, 4::8].copy())
    assert world.caption(read) == STAR
    assert read["clean"]


def test_the_oracle_says_what_it_sees(demo: tuple[Path, str]) -> None:
    assert f"the oracle sees {STAR}\n" in demo[1]


def test_every_option_is_understood(tmp_path: Path) -> None:
    out = tmp_path / "one.png"
    image = "a small red circle on a black background"
    options = "--num-frames 1 --scale 2 --seed 3 --steps 4 --guidance-scale 2"
    main(["sample", image, "--out", str(out), *options.split()])
    assert video.read(out).shape == (1, 64, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "the prompt is empty"),
        ([STAR, "--height", "47"], "height must be a multiple of 8, got 47: the nearest is 48"),
        ([STAR, "--num-frames", "0"], "num_frames must be 1 or more, got 0"),
        ([STAR, "--height", "9600"], "the most is 16,384: make the clip shorter or smaller"),
        ([STAR, "--seconds", "3", "--num-frames", "9"], "not allowed with argument"),
        ([STAR, "--out", "{here}/clip.xyz"], "unknown suffix '.xyz'"),
        ([STAR, "--out", "{here}/no/clip.mp4"], "is not a folder"),
        ([STAR, "--weights", "{here}"], "no weights in"),
        ([STAR, "--scale", "0"], "whole number from 1"),
        ([STAR, "--steps", "none"], "whole number from 1"),
        ([STAR, "--seed", "-1"], "whole number from 0"),
    ],
    ids=[
        *("empty", "height", "no frames", "too large", "two lengths"),
        *("suffix", "folder", "weights", "scale", "steps", "seed"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    filled = [text.format(here=tmp_path) for text in arguments]
    error = refused(capsys, "sample", "--out", tmp_path / "clip.mp4", *filled)
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_unknown_words_are_a_warning(sample) -> None:
    said = sample("a large sqare crimson star moving up on a navy background", "--as-typed")
    expected = "minisora: warning: the model does not know 'sqare' (nearest known: square), "
    assert expected + "'crimson'; it reads them as blanks" in said.err


def test_a_size_and_a_length_that_were_not_trained_on_are_one_warning(sample) -> None:
    said = sample(STAR, "--height", "48", "--num-frames", "21")
    expected = "minisora: warning: not trained on 48 x 32 or 21 frames: it may look worse\n"
    assert said.err.count("warning") == 1
    assert expected in said.err


def test_a_clip_may_have_a_size_and_a_length_that_were_not_trained_on(
    sample, tmp_path: Path
) -> None:
    sample(STAR, "--height", "48", "--num-frames", "21", "--scale", "1")
    assert video.read(tmp_path / "clip.gif").shape == (21, 48, 32, 3)


def test_a_world_that_was_not_trained_on_is_a_warning(sample) -> None:
    said = sample(TWO)
    assert "these weights were trained on shapes, the prompt is about pairs" in said.err
    assert "the oracle sees a " in said.out


# Short prompts


@pytest.fixture
def own_upsampler(untrained: str, monkeypatch) -> None:
    """The untrained model gets an upsampler that completes every prompt alike."""
    upsampler = Upsampler(sorted(world.WORDS), width=32, depth=1)
    weights.save(untrained, {}, upsampler=upsampler)
    monkeypatch.setattr(Upsampler, "draw", lambda _, prompts, __: [CIRCLE] * len(prompts))


def test_a_short_prompt_is_completed_and_shown_before_sampling(own_upsampler, sample) -> None:
    assert sample("red circle").out.startswith(f"completed prompt: {CIRCLE}\n")


def test_a_full_caption_stays_as_it_is(own_upsampler, sample) -> None:
    assert "completed prompt" not in sample(STAR).out


def test_a_prompt_can_be_sampled_as_typed(own_upsampler, sample) -> None:
    assert "completed prompt" not in sample("red circle", "--as-typed").out


def test_the_shipped_upsampler_serves_a_model_that_has_none(sample) -> None:
    assert " circle " in sample("circle").out.splitlines()[0]


def test_a_prompt_that_no_caption_says_is_sampled_as_typed(sample) -> None:
    said = sample("red blue circle")
    assert "(sampled as typed)" in said.err
    assert "completed prompt" not in said.out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["red circle"], True),
        ([STAR], False),
        (["a large red circle on a black background", "--num-frames", "1"], False),
    ],
    ids=["short prompt", "full caption", "full caption of an image"],
)
def test_a_failed_clip_of_a_short_prompt_gets_a_hint(
    sample, arguments: list[str], hint: bool
) -> None:
    said = sample(*arguments, "--as-typed").out
    assert "but the clip is not clean" in said
    assert ("without --as-typed" in said) == hint


# evaluate


@pytest.fixture
def judges(monkeypatch) -> None:
    """Untrained judges, which are fast; the upsampler stays the shipped one."""
    captioner = Captioner(sorted(world.WORDS), width=32, depth=1).eval()
    monkeypatch.setattr(Captioner, "from_pretrained", lambda: captioner)


def test_evaluate_writes_the_rows_and_prints_the_tables(
    untrained: str, judges: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "evaluation.json"
    main(["evaluate", "--clips", "4", "--weights", untrained, "--out", str(out)])
    result = json.loads(out.read_text())
    assert {row["world"] for row in result["rows"]} == {"shapes"}
    assert result["weights"]["dit"] == weights.fingerprint(untrained, "dit")
    lines = [line.rstrip(",") for line in out.read_text().splitlines() if '"world"' in line]
    assert [json.loads(line) for line in lines] == result["rows"]  # a row a line
    assert "| **all of it** | 0.0 (0.0-49.0)" in capsys.readouterr().out


def test_evaluate_scores_every_world_of_the_weights(
    tiny_sora: Sora, judges: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tiny_sora.trained_on = tiny_sora.trained_on | {"worlds": ["pairs", "shapes"]}
    tiny_sora.save(tmp_path / "weights")
    out = tmp_path / "evaluation.json"
    main(["evaluate", "--clips", "2", "--weights", str(tmp_path / "weights"), "--out", str(out)])
    pairs = [row for row in json.loads(out.read_text())["rows"] if row["world"] == "pairs"]
    assert {row["split"] for row in pairs} == {"train", "held_out", "held_out_motion"}
    assert {"layout", "relation", "all"} <= {row["measure"] for row in pairs}
    assert "| % right of 2, two objects |" in capsys.readouterr().out


# caption


@pytest.fixture
def captioned(tmp_path: Path) -> tuple[Captioner, str]:
    """An untrained captioner and its bundle."""
    captioner = Captioner(sorted(world.WORDS), width=32, depth=1)
    weights.save(tmp_path / "weights", {}, captioner=captioner)
    return captioner.eval(), str(tmp_path / "weights")


def test_captions_are_a_line_a_file(
    captioned: tuple[Captioner, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    captioner, folder = captioned
    clip, image = tmp_path / "clip.gif", tmp_path / "image.png"
    video.write(clip, world.clip(0, 0).frames, scale=2)
    video.write(image, world.clip(0, 1, 1).frames)
    main(["caption", str(clip), str(image), "--weights", folder])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(clip), str(image)]
    assert lines[1].partition(": ")[2] == captioner(world.clip(0, 1, 1).frames[None])[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{here}/clip.gif", "--weights", "{here}/empty"], "holds no captioner"),
        (["{here}/none.mp4"], "no such file"),
        (["{here}/clip.gif", "--temperature", "-1"], "must be 0 or more"),
        (["{here}/clip.gif", "--temperature", "nan"], "must be 0 or more"),
    ],
    ids=["no captioner", "no file", "cold", "no number"],
)
def test_what_cannot_be_captioned_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    video.write(tmp_path / "clip.gif", world.clip(0, 0).frames)
    weights.save(tmp_path / "empty", {})
    filled = [text.format(here=tmp_path) for text in arguments]
    assert message in refused(capsys, "caption", *filled)


# The other commands


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "everything"], "name what to train"),
        (["fit"], "name what to train"),
        (["dance"], "invalid choice"),
        (["evaluate", "--out", "{here}/no/e.json"], "is not a folder"),
        (["reproduce", "everything"], "invalid choice"),
        (["reproduce", "recipe", "--only", "guidance-9"], "no run guidance-9: choose from "),
    ],
    ids=["stage", "no stage", "command", "folder", "experiment", "run"],
)
def test_what_does_not_exist_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    filled = [text.format(here=tmp_path) for text in arguments]
    assert message in refused(capsys, *filled)


def test_fit_explains_itself(capsys: pytest.CaptureFixture) -> None:
    main(["fit", "--help"])
    assert "[--ckpt_path last, or FILE] resumes" in capsys.readouterr().out


def test_experiments_need_a_checkout(
    tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("minisora.experiments.runs.ROOT", tmp_path)  # as in a wheel
    assert "need a checkout" in refused(capsys, "reproduce", "recipe")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_names_its_runs(name: str, capsys: pytest.CaptureFixture) -> None:
    assert "choose from " in refused(capsys, "reproduce", name, "--only", "none-such")


def test_doctor_makes_a_clip_in_every_format(capsys: pytest.CaptureFixture) -> None:
    main(["doctor"])
    said = capsys.readouterr().out
    assert "threads" in said
    assert said.count(" 17 frames read back") == 4  # mp4, gif, png, webp


def test_sampling_imports_no_trainer(tmp_path: Path) -> None:
    heavy = "{'lightning', 'wandb', 'IPython', 'torchmetrics', 'matplotlib'}"
    code = (
        "import sys; from minisora.cli import main;"
        "main(['sample', 'a red star', '--out', sys.argv[1]]);"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "clip.gif")]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.endswith("[]\n")


def test_help_imports_no_torch() -> None:
    code = "import sys; from minisora.cli import parser; parser(); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout == "False\n"


def test_captions_with_a_temperature_repeat_by_their_seed(
    captioned: tuple[Captioner, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    clip = video.write(tmp_path / "clip.gif", world.clip(0, 0).frames)
    said = []
    for seed in ("1", "1", "2"):
        torch.rand(1)  # what was drawn before does not matter
        options = ["--temperature", "1", "--seed", seed, "--weights", captioned[1]]
        main(["caption", str(clip), *options])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[0] != said[2]


# Arguments and files that nobody means


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "\udcff"], "is not text in UTF-8"),
        (["sample", STAR, "--steps", "9" * 20], "a whole number from 1 to a million"),
        (["sample", STAR, "--seed=--"], "--seed=-- has no value"),
        (["sample", STAR, "--weights", ""], "is empty: name a folder"),
        (["sample", STAR, "--out", "a" * 300 + ".gif"], "File name too long"),
        (["caption", "a" * 300 + ".gif"], "File name too long"),
        (["recaption", "o.jsonl", "--weights", ""], "need a name"),
    ],
    ids=["no text", "steps", "seed", "weights", "long name", "long clip", "recaption"],
)
def test_odd_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert message in refused(capsys, *arguments)


def test_a_clip_that_cannot_be_read_does_not_stop_the_others(
    tmp_path: Path, captions_folder: str, capsys: pytest.CaptureFixture
) -> None:
    names = [str(tmp_path / name) for name in ("good.gif", "bad.gif", "fine.gif")]
    for name in names:
        video.write(name, world.clip(0, 0).frames)
    Path(names[1]).write_bytes(b"GIF89a damaged")
    with pytest.raises(SystemExit) as stop:
        main(["caption", *names, "--weights", captions_folder])
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert [line.partition(": ")[0] for line in said.out.splitlines()] == [names[0], names[2]]
    assert said.err.splitlines()[-1] == "minisora: error: 1 of 3 clips could not be read"


@pytest.fixture
def captions_folder(tmp_path: Path) -> str:
    """The bundle of an untrained captioner."""
    captioner = Captioner(sorted(world.WORDS), width=32, depth=1)
    weights.save(tmp_path / "captioner", {}, captioner=captioner)
    return str(tmp_path / "captioner")


def test_a_pipe_that_is_closed_is_no_error() -> None:
    command = f"{sys.executable} -m minisora.cli --help | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ended.stderr == ""
    assert ended.returncode in (0, 141)


def test_a_terminated_command_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def parts() -> Iterator[np.ndarray]:
        yield np.zeros((1, 32, 32, 3), dtype=np.uint8)
        os.kill(os.getpid(), signal.SIGTERM)

    def stopped(*_: object, **__: object) -> None:
        video.write(tmp_path / "clip.mp4", parts())

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("minisora.doctor.report", stopped)
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 143
    assert "terminated" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
    assert not list(tmp_path.iterdir())
