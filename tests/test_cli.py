import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minisora import Sora, video, weights, world
from minisora.captioner import Captioner
from minisora.cli import main
from minisora.upsampler import Upsampler

DEMO = "a large yellow star moving down and left on a navy background"


def refused(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_demo_shows_just_that(tmp_path: Path, capsys) -> None:
    main(["sample", DEMO, "--out", str(tmp_path / "star.mp4")])
    clip = video.read(tmp_path / "star.mp4")
    assert clip.shape == (17, 256, 256, 3)
    read = world.describe(clip[:, 4::8, 4::8].copy())
    assert world.caption(read) == DEMO and read["clean"]
    assert f"the oracle sees {DEMO}\n" in capsys.readouterr().out


def test_options(tmp_path: Path) -> None:
    out = tmp_path / "one.png"
    main(
        [
            "sample",
            "a small red circle on a black background",
            "--out",
            str(out),
            "--num-frames",
            "1",
            "--scale",
            "2",
            "--seed",
            "3",
            "--steps",
            "4",
            "--guidance-scale",
            "2",
        ]
    )
    assert video.read(out).shape == (1, 64, 64, 3)


def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path: Path, capsys) -> None:
    out = tmp_path / "clip.mp4"
    for arguments, words in (
        (["", "--out", out], "the prompt is empty"),
        ([DEMO, "--out", out, "--height", "48"], "got 48 x 32: the nearest is 32 x 32"),
        ([DEMO, "--out", out, "--num-frames", "99"], "the nearest is 17"),
        ([DEMO, "--out", tmp_path / "clip.xyz"], "unknown suffix '.xyz'"),
        ([DEMO, "--out", tmp_path / "no" / "clip.mp4"], "is no folder"),
        ([DEMO, "--out", out, "--weights", tmp_path], "no weights in"),
        ([DEMO, "--out", out, "--scale", "0"], "whole number from 1"),
        ([DEMO, "--out", out, "--steps", "none"], "whole number from 1"),
    ):
        error = refused(capsys, "sample", *arguments)
        assert words in error and "Traceback" not in error
        assert list(tmp_path.iterdir()) == []
    assert "say what to train" in refused(capsys, "fit", "everything")
    assert "invalid choice" in refused(capsys, "dance")
    assert "no folder" in refused(capsys, "evaluate", "--out", tmp_path / "no" / "e.json")


def test_unknown_words_are_a_warning(tmp_path: Path, capsys) -> None:
    main(["sample", "a large crimson star", "--out", str(tmp_path / "clip.gif")])
    assert (
        "minisora: warning: the model has never seen these words and reads them as blanks: crimson"
        in capsys.readouterr().err
    )
    assert (tmp_path / "clip.gif").exists()


def test_evaluate_writes_the_table_and_the_numbers(
    tmp_path: Path, tiny_sora: Sora, capsys
) -> None:
    tiny_sora.save(tmp_path / "weights")
    out = tmp_path / "evaluation.json"
    main(["evaluate", "--clips", "4", "--weights", str(tmp_path / "weights"), "--out", str(out)])
    result = json.loads(out.read_text())
    assert list(result["splits"]) == ["seen", "held-out pairs", "held-out motions", "images, seen"]
    score = result["splits"]["seen"]["scores"]["all"]
    assert set(score) == {"right", "low", "high", "chance"} and score["right"] == 0
    assert "| **all five and clean** | 0.0 (0.0-49.0)" in capsys.readouterr().out


def test_evaluate_scores_two_objects_of_weights_that_make_them(
    tmp_path: Path, tiny_sora: Sora, capsys
) -> None:
    tiny_sora.makes = tiny_sora.makes | {"objects": 2}
    tiny_sora.save(tmp_path / "weights")
    out = tmp_path / "evaluation.json"
    main(["evaluate", "--clips", "2", "--weights", str(tmp_path / "weights"), "--out", str(out)])
    pairs = json.loads(out.read_text())["pairs"]
    assert list(pairs) == ["seen", "held-out pairs", "held-out motions"]
    assert {"layout", "relation", "all"} <= pairs["seen"]["scores"].keys()
    assert "| **all of it** | 0.0 (" in capsys.readouterr().out


def test_two_objects_are_a_warning_for_weights_of_one(
    tmp_path: Path, tiny_sora: Sora, capsys
) -> None:
    tiny_sora.save(tmp_path / "weights")
    two = "a red circle moving left above a blue star standing still on a navy background"
    out = tmp_path / "clip.gif"
    main(["sample", two, "--out", str(out), "--weights", str(tmp_path / "weights")])
    said = capsys.readouterr()
    assert "trained on one object, the prompt names two" in said.err
    assert "the oracle sees a " in said.out and out.exists()


def test_captions(tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    captioner = Captioner(sorted(world.WORDS), width=32, depth=1)
    weights.save(tmp_path / "weights", {}, captioner=captioner)
    clip, image = tmp_path / "clip.gif", tmp_path / "image.png"
    video.write(clip, world.clip(0, 0).frames, scale=2)
    video.write(image, world.clip(0, 1, 1).frames, scale=1)
    main(["caption", str(clip), str(image), "--weights", str(tmp_path / "weights")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(clip), str(image)]
    assert lines[1].partition(": ")[2] == captioner.eval()(world.clip(0, 1, 1).frames[None])[0]
    weights.save(tmp_path / "empty", {})
    assert "holds no captioner" in refused(
        capsys, "caption", clip, "--weights", tmp_path / "empty"
    )
    assert "no such file" in refused(capsys, "caption", tmp_path / "none.mp4").lower()
    assert "must be 0 or more" in refused(capsys, "caption", clip, "--temperature", "-1")


def test_the_upsampled_prompt_is_shown_before_sampling(
    tmp_path: Path, tiny_sora: Sora, capsys, monkeypatch
) -> None:
    tiny_sora.save(tmp_path / "weights")
    upsampler = Upsampler(sorted(world.WORDS), width=32, depth=1)
    weights.save(tmp_path / "weights", {}, upsampler=upsampler)
    monkeypatch.setattr(
        Upsampler, "draw", lambda *_: ["a red circle growing on a navy background"]
    )
    out = str(tmp_path / "clip.gif")
    main(
        [
            "sample",
            "red circle",
            "--upsample",
            "--out",
            out,
            "--weights",
            str(tmp_path / "weights"),
        ]
    )
    said = capsys.readouterr().out
    assert said.startswith("prompt: a red circle growing on a navy background\n")


def test_a_failed_clip_of_a_short_prompt_is_told_of_upsampling(
    tmp_path: Path, tiny_sora: Sora, capsys
) -> None:
    tiny_sora.save(tmp_path / "weights")  # untrained: no clip of it is clean
    where = ["--out", str(tmp_path / "a.gif"), "--weights", str(tmp_path / "weights")]
    image = ["a large red circle on a black background", "--num-frames", "1"]
    for asked, told in ((["red circle"], True), ([DEMO], False), (image, False)):
        main(["sample", *asked, *where])
        said = capsys.readouterr().out
        assert "not one clean object" in said and ("--upsample" in said) == told


def test_the_shipped_upsampler_serves_a_model_that_has_none(
    tmp_path: Path, tiny_sora: Sora, capsys
) -> None:
    tiny_sora.save(tmp_path / "weights")
    main(
        f"sample circle --upsample --out {tmp_path / 'a.gif'} --weights {tmp_path / 'weights'}".split()
    )
    assert " circle " in capsys.readouterr().out.splitlines()[0]


def test_experiments_need_a_checkout(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("minisora.experiments.recipe.ROOT", tmp_path)  # as in a wheel
    assert "need a checkout" in refused(capsys, "reproduce", "recipe")
    monkeypatch.undo()
    assert 'no run "guidance 9": choose from "none", "asked for x", ' in refused(
        capsys, "reproduce", "recipe", "--only", "guidance 9"
    )


def test_doctor(capsys) -> None:
    main(["doctor"])
    said = capsys.readouterr().out
    assert "threads" in said and said.count(" 17 frames read back") == 3


def test_sampling_imports_no_trainer(tmp_path: Path) -> None:
    code = (
        "import sys; from minisora.cli import main; main(['sample', 'a red star', '--out', sys.argv[1]]);"
        "print(sorted({'lightning', 'wandb', 'IPython', 'torchmetrics', 'matplotlib'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "clip.gif")]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.endswith("[]\n")
