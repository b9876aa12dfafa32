"""The command line of training: configs, old flags, defaults, and what is refused."""

import importlib
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIGS, fit, stage_of
from lightning.pytorch.callbacks import Callback

from minisora import InputError
from minisora.average import Average
from minisora.callbacks import Progress
from minisora.checkpoints import Checkpoints
from minisora.cli import main
from minisora.files import locked
from minisora.fit import CLASSES, LINKS, RENAMED, STAGES, FitCLI, ParsingCLI, parse, run_cli
from minisora.optim import MuonAdam
from minisora.runlog import CSVLog
from minisora.variants.positions import NoRotations

VARIANT = "minisora.variants.positions.NoRotations"
DIT = ["--config", str(CONFIGS / "tiny" / "dit.yaml")]


def import_object(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def value(config: dict, flag: str) -> object:
    """What a parsed config has for a flag such as --model.dit.size."""
    for key in flag.removeprefix("--").split("."):
        config = config.get("init_args", config)[key]
    return config


# Flags


@pytest.mark.parametrize(
    ("old", "given"),
    [
        ("--model.size", "laptop"),
        ("--model.target", "x"),
        ("--model.pooled", "false"),
        ("--data.vae", "data/weights"),
        ("--data.captions", "captions.jsonl"),
        ("--data.ordered_steps", "7"),
        ("--model.text_depth", "2"),
        ("--model.text_length", "20"),
        ("--model.guidance", "3.0"),
        ("--model.steps", "4"),
    ],
)
def test_old_flags_mean_the_new_ones(old: str, given: str) -> None:
    by_old, by_new = (parse("dit", [*DIT, flag, given]) for flag in (old, RENAMED[old]))
    assert by_old == by_new
    assert value(by_new, RENAMED[old]) == yaml.safe_load(given)


def test_old_flags_with_an_equals_sign_too() -> None:
    assert value(parse("dit", [*DIT, "--model.size=laptop"]), "--model.dit.size") == "laptop"


def test_every_renamed_flag_is_tested() -> None:
    (cases,) = (mark.args[1] for mark in test_old_flags_mean_the_new_ones.pytestmark)
    assert {old for old, _ in cases} == set(RENAMED)


def test_a_class_path_names_a_variant() -> None:
    config = parse("dit", [*DIT, "--model.dit", VARIANT])
    assert config["model"]["dit"]["class_path"] == VARIANT


def test_a_variant_keeps_the_arguments_of_the_config() -> None:
    config = parse("dit", [*DIT, "--model.dit", VARIANT])
    assert value(config, "--model.dit.patch") == [1, 1, 1]


@pytest.mark.parametrize("stage", STAGES)
def test_the_default_classes_are_built_where_none_is_named(stage: str) -> None:
    reads = {"dit": ["--data.view.vae=x"], "captioner": ["--data.view.vae=x"]}
    config = parse(stage, reads.get(stage, []))
    for key, path in CLASSES[stage].items():
        part, name = key.split(".")
        assert import_object(config[part][name]["class_path"]) is import_object(f"minisora.{path}")


LINKED = [
    (stage, target.replace(".init_args", ""))
    for stage in STAGES
    for target in (*LINKS[stage], "model.seed")
]


@pytest.mark.parametrize(("stage", "target"), LINKED, ids=map("-".join, LINKED))
@pytest.mark.parametrize("form", ["{}=8", "{} 8"], ids=["equals", "space"])
def test_flags_that_follow_from_others_are_refused(stage: str, target: str, form: str) -> None:
    arguments = form.format(f"--{target}").split()
    with pytest.raises(InputError, match=rf"^--{re.escape(target)} follows from \S+: set that"):
        parse(stage, arguments)


@pytest.mark.parametrize(
    "worlds",
    [
        ['--data.worlds={"pairs": 0.4, "shapes": 0.6}'],
        ["--data.worlds.pairs=0.4", "--data.worlds.shapes=0.6"],
        ["--data.worlds.pairs", "0.4", "--data.worlds.shapes", "0.6"],
    ],
    ids=["mapping", "one by one", "with spaces"],
)
def test_worlds_are_a_mapping(worlds: list[str]) -> None:
    config = parse("dit", [*DIT, *worlds])
    assert config["data"]["worlds"] == {"pairs": 0.4, "shapes": 0.6}


# Configs


class BuildingCLI(FitCLI):
    """Builds the trainer, the model and the data, and trains nothing."""

    def _run_subcommand(self, subcommand: str) -> None: ...


def parsed(stage: str, *arguments: str) -> FitCLI:
    return run_cli(ParsingCLI, stage, list(arguments))


def built(stage: str, root: Path, *arguments: str) -> FitCLI:
    folder = ["--trainer.default_root_dir", str(root), "--trainer.max_steps", "5"]
    return run_cli(BuildingCLI, stage, [*folder, *arguments])


CONFIG_FILES = sorted(path for path in CONFIGS.glob("*/*.yaml") if stage_of(path) in STAGES)


@pytest.mark.parametrize(
    "path", CONFIG_FILES, ids=lambda path: str(path.relative_to(CONFIGS).with_suffix(""))
)
def test_every_config_parses(path: Path) -> None:
    config = parse(stage_of(path), ["--config", str(path)])
    own = yaml.safe_load(path.read_text())["trainer"]["max_steps"]
    assert config["trainer"]["max_steps"] == own


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        ("configs/toy/vae.yaml", "runs/toy/vae"),
        ("configs/toy/wide.yaml", "runs/toy/wide"),
        ("elsewhere/mine/vae.yaml", "runs/mine/vae"),
    ],
)
def test_the_folder_of_a_run_follows_from_its_config(
    config: str, folder: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(config).parent.mkdir(parents=True)
    Path(config).write_text("trainer: {max_steps: 1}")
    assert parsed("vae", "--config", config).run_folder() == Path(folder)


def test_a_config_in_the_current_folder_is_called_after_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vae.yaml").write_text("trainer: {max_steps: 1}")
    assert parsed("vae", "--config", "vae.yaml").run_folder() == Path("runs", tmp_path.name, "vae")


def test_overlays_do_not_change_the_folder() -> None:
    overlay = ["--config", str(CONFIGS / "wandb.yaml")]
    assert parsed("dit", *DIT, *overlay).run_folder() == Path("runs/tiny/dit")


def test_without_a_config_the_folder_is_called_after_the_stage() -> None:
    assert parsed("vae").run_folder() == Path("runs/vae")


@pytest.fixture
def run_of_two_steps(tmp_path: Path, monkeypatch) -> Path:
    """The folder of a run that was given its config, two steps, and nothing else."""
    monkeypatch.chdir(tmp_path)
    config = Path("configs/tiny/vae.yaml")
    config.parent.mkdir(parents=True)
    config.write_text((CONFIGS / "tiny" / "vae.yaml").read_text())
    main(
        [
            *("fit", "vae", "--config", str(config), "--data.clips=8"),
            *("--trainer.max_steps=2", "--trainer.val_check_interval=2"),
            "--trainer.enable_progress_bar=false",
        ]
    )
    return Path("runs/tiny/vae")


def test_a_run_writes_everything_to_its_folder(run_of_two_steps: Path) -> None:
    names = {path.name for path in run_of_two_steps.iterdir()}
    assert names == {"checkpoints", "config.yaml", "metrics.csv", "weights"}
    assert (run_of_two_steps / "checkpoints" / "last.ckpt").is_file()
    assert (run_of_two_steps / "weights" / "vae.safetensors").is_file()


# Defaults of the run


def test_metrics_go_to_a_csv_file_in_the_folder(tmp_path: Path) -> None:
    logger = built("vae", tmp_path / "run").trainer.logger
    assert isinstance(logger, CSVLog)
    assert logger.path == tmp_path / "run" / "metrics.csv"


def averages(cli: FitCLI) -> list[Callback]:
    return [each for each in cli.trainer.callbacks if isinstance(each, Average)]


def test_the_average_of_the_weights_is_a_flag(tmp_path: Path) -> None:
    (average,) = averages(built("vae", tmp_path, "--model.average=0.9"))
    assert average.decay == 0.9


def test_an_average_of_0_is_none(tmp_path: Path) -> None:
    assert averages(built("vae", tmp_path, "--model.average=0")) == []


@pytest.mark.parametrize("kind", [Checkpoints, Progress])
@pytest.mark.parametrize("given", [True, False], ids=["on", "off"])
def test_checkpoints_and_progress_bar_can_be_turned_off(
    kind: type[Callback], given: bool, tmp_path: Path
) -> None:
    name = "enable_checkpointing" if kind is Checkpoints else "enable_progress_bar"
    cli = built("vae", tmp_path, f"--trainer.{name}={str(given).lower()}")
    assert any(type(each) is kind for each in cli.trainer.callbacks) == given


@pytest.mark.parametrize(("name", "kind"), [("muon", MuonAdam), ("adamw", torch.optim.AdamW)])
def test_the_optimizer_is_a_flag(name: str, kind: type, tmp_path: Path) -> None:
    cli = built("vae", tmp_path, f"--model.optimizer={name}", "--model.adam_lr=0.004")
    assert type(cli.model.optimizer()) is kind


def test_adamw_steps_every_parameter(tmp_path: Path) -> None:
    module = built("vae", tmp_path, "--model.optimizer=adamw", "--model.adam_lr=0.004").model
    (group,) = module.optimizer().param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in module.vae.parameters()}
    assert group["lr"] == 0.004


def test_adamw_trains(tmp_path: Path) -> None:
    fit("vae", tmp_path, "--model.optimizer=adamw", "--trainer.max_steps=2")
    assert (tmp_path / "vae" / "weights" / "vae.safetensors").is_file()


def test_the_seed_of_the_data_is_that_of_the_model(tmp_path: Path) -> None:
    assert built("vae", tmp_path, "--data.seed=3").model.seed == 3


def test_the_first_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    def head(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # what was drawn before does not matter
        return next(built("upsampler", tmp_path, f"--data.seed={seed}").model.parameters())

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))


def test_a_variant_is_built_for_the_data(on_vae: str, tmp_path: Path) -> None:
    cli = built("dit", tmp_path, *DIT, on_vae, "--model.dit", VARIANT)
    assert type(cli.model.dit) is NoRotations
    assert cli.model.dit.config["channels"] == 16
    assert cli.model.dit.config["text_width"] == 32


# Bad input. {root} is the folder of the trained networks, {here} that of the test.

REFUSED = {
    "an unknown flag": (["--model.sizes=tiny"], "--model.sizes"),
    "an unknown network": (["--model.dit=minisora.dit.None"], "no attribute 'None'"),
    "no clips": (["--data.clips=0"], "clips must be 1 or more"),
    "a cut checkpoint": (["--ckpt_path={here}/cut.ckpt"], "cut.ckpt is damaged or no checkpoint"),
    "another file": (["--ckpt_path={here}/other.ckpt"], "no checkpoint of a training"),
    "no checkpoint": (["--ckpt_path={here}/no.ckpt"], "no such checkpoint"),
    "an empty patch": (["--model.dit.patch=[0,1,1]"], "patch must be 1 or more, got 0"),
    "a share of an epoch": (["--trainer.val_check_interval=0.5"], "val_check_interval"),
    "no end": (["--trainer.max_steps=-1"], "set trainer.max_steps"),
    "an unknown size": (["--model.dit.size=huge"], "no DiT of size 'huge'"),
    "other channels": (["--model.dit.channels=8"], "--model.dit.channels follows from data.view"),
    "long patches": (
        ["--model.dit.patch=[5,2,2]"],
        "latents of (1, 4, 4) are not cut evenly by patches of (5, 2, 2)",
    ),
    "an uneven size": (
        ["--data.sizes=[[32,32],[36,32]]"],
        "data.sizes must be multiples of 8, got 36 x 32",
    ),
    "a size without width": (["--data.sizes=[[32]]"], "data.sizes holds [height, width] each"),
    "more sizes than clips": (
        ["--data.sizes=[[32,32],[24,40]]", "--data.clips=1"],
        "1 clips are too few for 2 sizes: set data.clips",
    ),
    "a length inside a group": (
        ["--data.view.lengths={{17: 0.5, 8: 0.5}}"],
        "data.view.lengths are 1 + 4k frames, got 8",
    ),
    "a length of more than the clips": (
        ["--data.view.lengths={{33: 1}}"],
        "data.view.lengths has 33 frames, clips have 17: set data.num_frames",
    ),
    "a cut event": (
        ['--data.worlds={{"events": 1}}', "--data.view.lengths={{17: 0.5, 9: 0.5}}"],
        "clips of the world events are cut to 1 frame or to 17 or more, not to 9",
    ),
    "short texts": (
        ["--model.text.length=9"],
        "the model reads at most 9: shorten it or set model.text.length to more",
    ),
    "a large seed": ([f"--data.seed={2**63}"], "seed must be from 0 to 2^63 - 1"),
    "an unknown accelerator": (["--trainer.accelerator=abacus"], "abacus"),
    "an unknown world": (['--data.worlds={{"room": 1}}'], "no world 'room'"),
    "no weights": (["--data.view.vae={here}/nowhere"], "no weights in"),
    "a checkpoint of another width": (
        ["--model.text.width=16", "--ckpt_path={root}/kept/step=30.ckpt"],
        "text.position_embed",
    ),
    "a start of another width": (
        ["--model.text.width=16", "--model.start={root}/dit/weights"],
        "model.start holds a network of another form: its text_width is 32, not 16",
    ),
    "a start of another target": (  # the same tensors, another meaning
        ["--model.dit.target=x", "--model.start={root}/dit/weights"],
        "model.start holds a network of another form: its target is v, not x",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_in_a_sentence(
    arguments: list[str], message: str, trained: Path, on_vae: str, tmp_path: Path, capsys
) -> None:
    checkpoint = trained / "kept" / "step=30.ckpt"
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    torch.save({"some": "tensors"}, tmp_path / "other.ckpt")
    filled = [text.format(root=trained, here=tmp_path) for text in arguments]
    log = tmp_path / "dit" / "metrics.csv"
    log.parent.mkdir()
    log.write_text("of an earlier run")
    with pytest.raises(SystemExit) as stop:
        fit("dit", tmp_path, on_vae, *filled)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert log.read_text() == "of an earlier run"


def test_a_flag_of_another_stage_is_refused() -> None:
    with pytest.raises(InputError, match="t_mean"):
        parse("vae", ["--model.t_mean=1"])


# Runs that are resumed, stopped or doubled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--model.lr=1e-9", "model.lr was 0.02, now 1e-09"),
        ("--data.batch_size=4", "data.batch_size was 8, now 4"),
    ],
    ids=["rate", "batch"],
)
def test_a_resumed_run_keeps_its_settings(
    change: str, message: str, trained: Path, tmp_path: Path, capsys
) -> None:
    checkpoint = trained / "vae" / "checkpoints" / "last.ckpt"
    with pytest.raises(SystemExit) as stop:
        fit("vae", tmp_path, f"--ckpt_path={checkpoint}", change)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_flag_before_the_config_counts() -> None:
    assert parse("dit", ["--trainer.max_steps", "3", *DIT])["trainer"]["max_steps"] == 3


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--model.lr=-1", "lr must be from 0 to 10, got -1"),
        ("--model.adam_lr=1e3", "adam_lr must be from 0 to 10, got 1000"),
        ("--model.warmup=-5", "warmup must be 0 or more, got -5"),
        ("--model.kl_weight=-1e9", "kl_weight must be from 0 to 1000"),
        ("--model.vae.depth=-1", "depth must be 1 or more, got -1"),
        ("--model.vae.depth=1000000000", "depth must be at most 1000"),
        ("--trainer.overfit_batches=1", "set data.clips to a few"),
        ("--trainer.precision=bf16-true", "use bf16-mixed or 32-true"),
        ("--trainer.default_root_dir=/dev/null/run", "cannot write to the folder /dev/null/run"),
    ],
    ids=lambda text: text.split("=")[0].removeprefix("--") if text.startswith("--") else "",
)
def test_numbers_out_of_bounds_are_refused(
    flag: str, message: str, tmp_path: Path, capsys
) -> None:
    with pytest.raises(SystemExit) as stop:
        fit("vae", tmp_path, flag)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_old_weights(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit("vae", tmp_path, "--trainer.max_steps=2")
    weights_file = tmp_path / "vae" / "weights" / "vae.safetensors"
    before = weights_file.read_bytes()
    monkeypatch.setattr(
        "minisora.training.vae_loss", lambda vae, *_: [vae.encode_linear.bias.sum() * math.nan] * 3
    )
    with pytest.raises(SystemExit) as stop:
        fit("vae", tmp_path, "--trainer.max_steps=2")
    assert stop.value.code == 2
    assert "the loss is nan at step 0" in capsys.readouterr().err.splitlines()[-1]
    assert weights_file.read_bytes() == before


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path: Path, capsys) -> None:
    with locked(tmp_path / "vae"), pytest.raises(SystemExit) as stop:
        fit("vae", tmp_path)
    assert stop.value.code == 2
    assert "is being written by another process" in capsys.readouterr().err.splitlines()[-1]


def test_slurm_variables_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    fit("vae", tmp_path, "--trainer.max_steps=1")
    assert (tmp_path / "vae" / "weights" / "vae.safetensors").exists()


def test_a_terminated_run_says_so_and_ends_with_143(tmp_path: Path) -> None:
    """SIGTERM comes from a callback's step, so that the test does not depend on time."""
    code = (
        "import os, signal, sys\n"
        "from minisora import training\n"
        "from minisora.cli import main\n"
        "step = training.VAETraining.training_step\n"
        "def killed(self, batch, index):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return step(self, batch, index)\n"
        "training.VAETraining.training_step = killed\n"
        "main(['fit', 'vae', *sys.argv[1:]])\n"
    )
    arguments = [f"--config={CONFIGS}/tiny/vae.yaml", f"--trainer.default_root_dir={tmp_path}"]
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 143
    assert "so no weights are written: resume with --ckpt_path" in ended.stderr
