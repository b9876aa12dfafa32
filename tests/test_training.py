"""Training as users run it, through `minisora fit` with the tiny configs."""

import csv
import json
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import fit, keep_checkpoints

from minisora import Sora, world
from minisora.captioner import Captioner
from minisora.dit import DiT
from minisora.text import TextEncoder
from minisora.training import DiTTraining, in_false_colors, shift_clips
from minisora.upsampler import Upsampler


def losses(root: Path, stage: str) -> dict[int, str]:
    """The loss of each step, as it stands in metrics.csv."""
    name = "words" if stage == "captioner" else "loss"
    with open(root / stage / "metrics.csv") as file:
        return {int(row["step"]): row[name] for row in csv.DictReader(file) if row[name]}


def checkpoint(folder: Path, step: int) -> str:
    """The argument of `fit` that resumes from a step."""
    return f"--ckpt_path={next(folder.glob(f'*step={step}.ckpt'))}"


def networks(root: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The transformer and the text encoder that a run exported."""
    sora = Sora.from_pretrained(root / "dit" / "weights", "cpu")
    return sora.dit, sora.text


# A transformer


def test_every_step_is_logged(trained: Path) -> None:
    assert list(losses(trained, "dit")) == list(range(60))


def test_the_loss_falls(trained: Path) -> None:
    curve = [float(loss) for loss in losses(trained, "dit").values()]
    assert sum(curve[-10:]) < 0.9 * sum(curve[:10])


def test_the_exported_model_samples(trained: Path) -> None:
    clip = Sora.from_pretrained(trained / "dit" / "weights")("a red circle")
    assert clip.shape == (1, 17, 32, 32, 3)


def test_the_exported_model_says_what_it_was_trained_on(trained: Path) -> None:
    assert Sora.from_pretrained(trained / "dit" / "weights").trained_on == {
        "worlds": ["shapes"],  # the share of pairs is 0
        "sizes": [[32, 32]],
        "durations": [1, 5, 9, 13, 17],
        "modes": ["text"],
        "fps": 8,
    }


def test_the_exported_weights_are_the_average(trained: Path) -> None:
    state = torch.load(next((trained / "kept").glob("*step=60.ckpt")), weights_only=False)
    averaged = state["state_dict"]["dit.head.weight"]
    live = state["current_model_state"]["dit.head.weight"]
    exported = networks(trained)[0].head.weight
    assert torch.equal(exported, averaged.bfloat16().float())
    assert not torch.equal(averaged, live)


def test_samples_are_written_at_every_validation(trained: Path) -> None:
    names = [path.name for path in sorted((trained / "dit" / "samples").glob("*.mp4"))]
    assert names == ["step-000030.mp4", "step-000060.mp4"]


# The other networks


def test_a_captioner_is_trained(trained: Path, on_vae: str, tmp_path: Path) -> None:
    fit("captioner", tmp_path, on_vae)
    captioner = Captioner.from_pretrained(tmp_path / "captioner" / "weights", "cpu")
    (caption,) = captioner(world.clip(0, 0).frames[None])
    assert set(caption.split()) <= world.WORDS
    curve = [float(loss) for loss in losses(tmp_path, "captioner").values()]
    assert len(curve) == 20
    assert curve[-1] < curve[5]


def test_an_upsampler_is_trained(tmp_path: Path) -> None:
    fit("upsampler", tmp_path)
    upsampler = Upsampler.from_pretrained(tmp_path / "upsampler" / "weights")
    (drawn,) = upsampler.draw(["red circle"])
    assert set(drawn.split()) <= world.WORDS
    curve = [float(loss) for loss in losses(tmp_path, "upsampler").values()]
    assert len(curve) == 20
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])


# Starting from trained weights


@pytest.fixture
def started(trained: Path, on_vae: str, tmp_path: Path) -> Path:
    """A run on two worlds that starts from the model of one, with learning rates of zero."""
    fit(
        "dit",
        tmp_path,
        on_vae,
        f"--model.start={trained / 'dit' / 'weights'}",
        "--model.lr=0",
        "--model.adam_lr=0",
        '--data.worlds={"pairs": 0.5, "shapes": 0.5}',
        "--data.validation_clips=16",
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=4",
    )
    return tmp_path


def test_a_run_starts_from_trained_weights(started: Path, trained: Path) -> None:
    for mine, theirs in zip(networks(started), networks(trained), strict=True):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_a_run_on_two_worlds_is_trained_on_both(started: Path) -> None:
    sora = Sora.from_pretrained(started / "dit" / "weights", "cpu")
    assert sora.trained_on["worlds"] == ["pairs", "shapes"]


def test_scores_of_two_worlds_are_kept_apart(started: Path) -> None:
    record = json.loads((started / "dit" / "weights" / "provenance.json").read_text())["dit"]
    (point,) = record["curve"]
    names = {"val-shapes/all", "ceiling-shapes/all", "val-pairs/relation", "ceiling-pairs/all"}
    assert names <= point.keys()


# Resuming


def test_resuming_repeats_the_uninterrupted_run_to_the_bit(
    trained: Path, on_vae: str, tmp_path: Path
) -> None:
    fit("dit", tmp_path, on_vae, checkpoint(trained / "kept", 30))
    whole, resumed = losses(trained, "dit"), losses(tmp_path, "dit")
    assert list(resumed) == list(range(30, 60))
    assert resumed == {step: whole[step] for step in resumed}
    for ours, theirs in zip(networks(trained), networks(tmp_path), strict=True):
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize(
    ("stage", "accumulated"), [("vae", 1), ("captioner", 1), ("upsampler", 2)]
)
def test_resuming_the_other_stages_too(
    stage: str, accumulated: int, on_vae: str, tmp_path: Path
) -> None:
    """Also where a step gathers the gradients of two batches."""
    options = [on_vae] if stage == "captioner" else []
    options += [f"--trainer.accumulate_grad_batches={accumulated}"]
    fit(stage, tmp_path / "whole", *options, *keep_checkpoints(tmp_path / "kept", 10))
    resume = checkpoint(tmp_path / "kept", 10)
    fit(stage, tmp_path / "resumed", *options, resume, "--trainer.max_epochs=1")
    whole, resumed = losses(tmp_path / "whole", stage), losses(tmp_path / "resumed", stage)
    assert list(resumed) == list(range(10, 20))
    assert resumed == {step: whole[step] for step in resumed}


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """As it is written without a word about checkpoints."""
    fit("upsampler", tmp_path)
    log = tmp_path / "upsampler" / "metrics.csv"
    before = log.read_text()
    fit("upsampler", tmp_path, f"--ckpt_path={tmp_path}/upsampler/checkpoints/last.ckpt")
    assert (log.parent / "metrics-before-1.csv").read_text() == before


def test_a_checkpoint_of_the_last_step_is_exported(
    trained: Path, on_vae: str, tmp_path: Path
) -> None:
    """A run that was killed after its last checkpoint has nothing left to train."""
    fit("dit", tmp_path, on_vae, checkpoint(trained / "kept", 60))
    for name in ("dit", "text"):
        file = f"dit/weights/{name}.safetensors"
        assert (tmp_path / file).read_bytes() == (trained / file).read_bytes()


def test_a_run_that_ends_early_says_that_it_wrote_no_weights(
    on_vae: str, tmp_path: Path, capsys
) -> None:
    fit("dit", tmp_path, on_vae, "--trainer.max_time=00:00:00:00")
    expected = "of 60 steps, so no weights are written: resume with --ckpt_path"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "dit" / "weights").exists()


@pytest.mark.parametrize("resumed", [False, True], ids=["from the start", "from the last step"])
def test_a_trial_run_leaves_nothing_behind(
    resumed: bool, trained: Path, on_vae: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "metrics.csv"
    log.write_text("of somebody else")
    options = [checkpoint(trained / "kept", 60)] if resumed else []
    fit("dit", tmp_path, on_vae, "--trainer.fast_dev_run=true", *options)
    assert list(tmp_path.rglob("*")) == [log]


# The parts of a step


@pytest.fixture
def module() -> DiTTraining:
    dit = DiT("tiny", channels=4, patch=(1, 1, 1), text_width=32)
    return DiTTraining(TextEncoder(["red"], width=32, depth=1), dit)


@pytest.mark.parametrize(("precision", "half"), [("bf16-mixed", True), ("32-true", False)])
def test_muon_computes_in_the_precision_of_the_run(
    module: DiTTraining, precision: str, half: bool
) -> None:
    module.trainer = L.Trainer(precision=precision, accelerator="cpu", logger=False, max_steps=1)
    assert module.configure_optimizers()["optimizer"].in_bfloat16 == half


@pytest.mark.parametrize(
    ("step", "done", "expected"),
    [(0, 0.0, 0.01), (49, 0.0, 0.5), (200, 0.5, 0.5), (200, 1.0, 0.0), (9, 0.99, 0.01)],
    ids=["first", "warming up", "half way", "end", "end before the warm-up is over"],
)
def test_rates_warm_up_and_decay(
    module: DiTTraining, step: int, done: float, expected: float
) -> None:
    assert module.rate(step, done) == pytest.approx(expected)


def test_each_clip_is_shifted_as_a_whole() -> None:
    """A clip that does not change over time still does not when it is shifted."""
    pixels = torch.randn(4, 1, 3, 8, 8).expand(4, 5, 3, 8, 8)  # (B, K, C, H, W)
    shifted = shift_clips(pixels, torch.Generator().manual_seed(0))
    assert torch.equal(shifted, shifted[:, :1].expand_as(shifted))


def test_false_colors_keep_what_is_no_color() -> None:
    """The three channels, in any order and each with any sign, have the same magnitudes."""
    pixels = torch.randn(4, 2, 3, 8, 8)  # (B, K, C, H, W)
    recolored = in_false_colors(pixels, torch.Generator().manual_seed(0))
    assert torch.equal(recolored.abs().sort(dim=2).values, pixels.abs().sort(dim=2).values)
    assert not torch.equal(recolored, pixels)
