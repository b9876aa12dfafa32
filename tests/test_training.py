"""Training as users run it, through `minisora fit` with the tiny configs."""

import csv
import json
from pathlib import Path

import lightning as L
import pytest
import torch

from minisora import Sora, world
from minisora.captioner import Captioner
from minisora.cli import main
from minisora.data import CaptionData
from minisora.training import DiTTraining
from minisora.upsampler import Upsampler

CONFIGS = Path(__file__).parent.parent / "configs"


def fit(stage: str, root: Path, *arguments: str) -> None:
    main(
        [
            "fit",
            stage,
            f"--config={CONFIGS}/tiny/{stage}.yaml",
            f"--trainer.default_root_dir={root / stage}",
            f"--trainer.logger.init_args.save_dir={root}",
            "--trainer.enable_progress_bar=false",
            *arguments,
        ]
    )


def losses(root: Path, stage: str) -> dict[int, str]:
    name = "words" if stage == "captioner" else "loss"
    with open(root / stage / "metrics.csv") as file:
        return {int(row["step"]): row[name] for row in csv.DictReader(file) if row[name]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    fit("vae", root)
    keep = [
        "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint",
        "--trainer.callbacks.every_n_train_steps=30",
        "--trainer.callbacks.save_top_k=-1",
        f"--trainer.callbacks.dirpath={root / 'kept'}",
    ]
    fit("dit", root, f"--data.vae={root / 'vae' / 'weights'}", *keep)
    return root


def test_loss_falls(trained: Path) -> None:
    curve = [float(loss) for loss in losses(trained, "dit").values()]
    assert len(curve) == 60 and sum(curve[-10:]) < 0.9 * sum(curve[:10])


def test_resuming_repeats_the_uninterrupted_run_to_the_bit(trained: Path, tmp_path: Path) -> None:
    checkpoint = next((trained / "kept").glob("*step=30.ckpt"))
    fit("dit", tmp_path, f"--data.vae={trained / 'vae' / 'weights'}", f"--ckpt_path={checkpoint}")
    whole, resumed = losses(trained, "dit"), losses(tmp_path, "dit")
    assert list(resumed) == list(range(30, 60))
    assert resumed == {step: whole[step] for step in resumed}
    a, b = (Sora.from_pretrained(root / "dit" / "weights") for root in (trained, tmp_path))
    for ours, theirs in ((a.dit, b.dit), (a.text, b.text)):
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)


def test_a_checkpoint_of_the_last_step_is_exported(trained: Path, tmp_path: Path) -> None:
    """A run that was killed after its last checkpoint has nothing left to train."""
    last = next((trained / "kept").glob("*step=60.ckpt"))
    fit("dit", tmp_path, f"--data.vae={trained / 'vae' / 'weights'}", f"--ckpt_path={last}")
    for name in ("dit", "text"):
        file = f"dit/weights/{name}.safetensors"
        assert (tmp_path / file).read_bytes() == (trained / file).read_bytes()


def test_a_captioner_is_trained_in_two_stages(trained: Path, tmp_path: Path) -> None:
    vae = trained / "vae" / "weights"
    fit("captioner", tmp_path, f"--data.vae={vae}")
    weights = tmp_path / "captioner" / "weights"
    said = Captioner.from_pretrained(weights, "cpu")(world.clip(0, 0).frames[None])
    assert len(said) == 1 and set(said[0].split()) <= world.WORDS
    words = [float(loss) for loss in losses(tmp_path, "captioner").values()]
    assert len(words) == 20 and words[-1] < words[5]
    data = CaptionData(str(vae), clips=16, batch_size=16, shorter=0.0, short_steps=1)
    data.setup("fit")
    short, rich = (data.batch(step)["captions"] for step in (0, 1))
    assert max(map(len, short)) < max(map(len, rich))
    assert all(" on a " in caption for caption in rich) and not any(" on a " in s for s in short)


@pytest.mark.parametrize(
    ("stage", "accumulated"), [("vae", 1), ("captioner", 1), ("upsampler", 2)]
)
def test_resuming_the_other_stages_too(
    stage: str, accumulated: int, trained: Path, tmp_path: Path
) -> None:
    """Also where a step gathers the gradients of two batches."""
    reads = [f"--data.vae={trained / 'vae' / 'weights'}"] if stage == "captioner" else []
    reads += [f"--trainer.accumulate_grad_batches={accumulated}"]
    keep = [
        "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint",
        "--trainer.callbacks.every_n_train_steps=10",
        "--trainer.callbacks.save_top_k=-1",
        f"--trainer.callbacks.dirpath={tmp_path / 'kept'}",
    ]
    fit(stage, tmp_path / "whole", *reads, *keep)
    resume = f"--ckpt_path={next((tmp_path / 'kept').glob('*step=10.ckpt'))}"
    fit(stage, tmp_path / "resumed", *reads, resume, "--trainer.max_epochs=1")
    whole, resumed = losses(tmp_path / "whole", stage), losses(tmp_path / "resumed", stage)
    assert list(resumed) == list(range(10, 20))
    assert resumed == {step: whole[step] for step in resumed}
    fit(stage, tmp_path / "whole", *reads, resume)
    before = tmp_path / "whole" / stage / "metrics-before-1.csv"
    assert before.exists()  # resuming in place keeps the log of the first part


def test_exports_the_averaged_weights_with_their_provenance(trained: Path) -> None:
    folder = trained / "dit" / "weights"
    sora = Sora.from_pretrained(folder)
    assert sora("a red circle").shape == (1, 17, 32, 32, 3)
    checkpoint = torch.load(next((trained / "kept").glob("*step=60.ckpt")), weights_only=False)
    averaged, live = (
        checkpoint["state_dict"]["dit.head.weight"],
        checkpoint["current_model_state"]["dit.head.weight"],
    )
    assert torch.equal(sora.dit.head.weight, averaged.bfloat16().float()) and not torch.equal(
        averaged, live
    )
    record = json.loads((folder / "provenance.json").read_text())["dit"]
    assert record["steps"] == 60 and [point["step"] for point in record["curve"]] == [30, 60]
    assert {"val/all", "ceiling/all"} <= set(record["curve"][-1])
    assert record["config"]["model"]["size"] == "tiny" and record["config"]["max_steps"] == 60
    assert list((trained / "dit" / "samples").glob("step-000060.mp4"))


def test_a_model_that_does_not_fit_is_refused_in_a_sentence(
    trained: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "cut.ckpt").write_bytes(
        next((trained / "kept").glob("*step=30.ckpt")).read_bytes()[:5000]
    )
    torch.save({"some": "tensors"}, tmp_path / "other.ckpt")
    log = tmp_path / "dit" / "metrics.csv"
    log.parent.mkdir()
    for arguments, words in (
        (["--data.vae=x", "--model.sizes=tiny"], "unrecognized arguments: --model.sizes=tiny"),
        (
            [f"--data.vae={trained / 'vae' / 'weights'}", "--data.clips=0"],
            "clips must be 1 or more",
        ),
        (
            [f"--data.vae={trained / 'vae' / 'weights'}", f"--ckpt_path={tmp_path / 'cut.ckpt'}"],
            "cut.ckpt is damaged or no checkpoint",
        ),
        (
            [
                f"--data.vae={trained / 'vae' / 'weights'}",
                f"--ckpt_path={tmp_path / 'other.ckpt'}",
            ],
            "no checkpoint of a training",
        ),
        (
            [f"--data.vae={trained / 'vae' / 'weights'}", "--model.patch=[0,1,1]"],
            "patch must be 1 or more, got 0",
        ),
        (
            [f"--data.vae={trained / 'vae' / 'weights'}", "--trainer.val_check_interval=0.5"],
            "val_check_interval",
        ),
        (
            [f"--data.vae={trained / 'vae' / 'weights'}", "--trainer.max_steps=-1"],
            "set trainer.max_steps",
        ),
        (
            [f"--data.vae={trained / 'vae' / 'weights'}", "--model.size=huge"],
            "no DiT of size 'huge'",
        ),
        (
            [f"--data.vae={trained / 'vae' / 'weights'}", "--model.channels=8"],
            "model.channels is 8, the VAE has 16",
        ),
        (
            [f"--data.vae={trained / 'vae' / 'weights'}", "--model.patch=[5,2,2]"],
            "patches of 5 latents in time do not cut shorter clips",
        ),
        (
            [f"--data.vae={trained / 'vae' / 'weights'}", "--data.height=36"],
            "data.height and data.width must be multiples of 8, got 36 and 32",
        ),
        (
            [f"--data.vae={trained / 'vae' / 'weights'}", "--model.text_length=9"],
            "the model reads at most 9: shorten it or set model.text_length to more",
        ),
        (
            [f"--data.vae={trained / 'vae' / 'weights'}", f"--data.seed={2**63}"],
            "seed must be from 0 to 2^63 - 1",
        ),
        (
            [f"--data.vae={trained / 'vae' / 'weights'}", "--trainer.accelerator=abacus"],
            "abacus",
        ),
        ([f"--data.vae={tmp_path / 'nowhere'}"], "no weights in"),
        (
            [f"--data.vae={trained / 'vae' / 'weights'}", f"--ckpt_path={tmp_path / 'no.ckpt'}"],
            "no such checkpoint",
        ),
        (
            [
                f"--data.vae={trained / 'vae' / 'weights'}",
                "--model.text_width=16",
                f"--ckpt_path={next((trained / 'kept').glob('*step=30.ckpt'))}",
            ],
            "text.place",
        ),
        (
            [
                f"--data.vae={trained / 'vae' / 'weights'}",
                "--model.text_width=16",
                f"--model.start={trained / 'dit' / 'weights'}",
            ],
            "model.start holds a model of another form: its text_width is 32, not 16",
        ),
        (
            [
                f"--data.vae={trained / 'vae' / 'weights'}",
                "--model.target=x",  # the same tensors, another meaning
                f"--model.start={trained / 'dit' / 'weights'}",
            ],
            "model.start holds a model of another form: its target is v, not x",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            log.write_text("of an earlier run")
            fit("dit", tmp_path, *arguments)
        said = capsys.readouterr().err
        assert stop.value.code == 2 and words in said.splitlines()[-1]
        assert log.read_text() == "of an earlier run"


def test_a_trial_run_leaves_nothing_behind(trained: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    log, last = tmp_path / "metrics.csv", next((trained / "kept").glob("*step=30.ckpt"))
    log.write_text("of somebody else")
    for resumed in ([], [f"--ckpt_path={last}"]):  # nothing is left to train in the second
        reads = [f"--data.vae={trained / 'vae' / 'weights'}", *resumed]
        fit("dit", tmp_path, "--trainer.fast_dev_run=true", *reads)
        assert list(tmp_path.rglob("*")) == [log]


def test_a_run_that_ends_early_says_that_it_wrote_no_weights(
    trained: Path, tmp_path: Path, capsys
) -> None:
    vae = f"--data.vae={trained / 'vae' / 'weights'}"
    fit("dit", tmp_path, vae, "--trainer.max_time=00:00:00:00")
    assert "of 60 steps, so no weights are written: --ckpt_path goes on" in capsys.readouterr().err
    assert not (tmp_path / "dit" / "weights").exists()


def test_two_objects_are_learned_from_where_one_was(trained: Path, tmp_path: Path) -> None:
    fit(
        "dit",
        tmp_path,
        f"--data.vae={trained / 'vae' / 'weights'}",
        f"--model.start={trained / 'dit' / 'weights'}",
        "--model.lr=0",
        "--model.adam_lr=0",
        "--data.pairs=0.5",
        "--data.validation_clips=16",
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=4",
    )
    weights = tmp_path / "dit" / "weights"
    sora, start = (Sora.from_pretrained(f, "cpu") for f in (weights, trained / "dit" / "weights"))
    assert sora.makes == {**start.makes, "objects": 2}
    for mine, theirs in ((sora.dit, start.dit), (sora.text, start.text)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    (note,) = json.loads((weights / "provenance.json").read_text())["dit"]["curve"]
    assert {"val/all", "val-pairs/relation", "ceiling-pairs/all"} <= note.keys()


def test_an_upsampler_is_trained(tmp_path: Path) -> None:
    fit("upsampler", tmp_path)
    drawn = Upsampler.from_pretrained(tmp_path / "upsampler" / "weights").draw(["red circle"])
    assert len(drawn) == 1 and set(drawn[0].split()) <= world.WORDS
    curve = [float(loss) for loss in losses(tmp_path, "upsampler").values()]
    assert len(curve) == 20 and sum(curve[-5:]) < 0.9 * sum(curve[:5])


def test_muon_computes_in_the_precision_of_the_run() -> None:
    for precision, half in (("bf16-mixed", True), ("32-true", False)):
        module = DiTTraining(size="tiny")
        module.trainer = L.Trainer(
            precision=precision, accelerator="cpu", logger=False, max_steps=1
        )
        assert module.configure_optimizers()["optimizer"].in_bfloat16 == half
