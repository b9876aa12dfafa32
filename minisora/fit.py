"""`minisora fit`: LightningCLI over the training modules. Imported only when something is trained.

A config says choices only. The run's folder follows from the config's place
(configs/toy/dit.yaml -> runs/toy/dit), and with it logger, checkpoints and exported weights.
"""

import argparse
import itertools
import logging
import os
import re
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from minisora.average import Average
from minisora.callbacks import Export, Progress
from minisora.checkpoints import Checkpoints, SealedIO, check_checkpoint, kept, newest
from minisora.data import ClipData, PromptData
from minisora.device import best_device, fast_bfloat16, keep_memory
from minisora.dit_training import DiTTraining
from minisora.errors import InputError, Interrupted, check_seed
from minisora.files import locked, make_folder, remove_partial, write_text
from minisora.footage_data import FootageData
from minisora.language_training import CaptionerTraining, UpsamplerTraining
from minisora.runlog import CSVLog, RunLog
from minisora.training import VAETraining

STAGES = {  # stage: its training module and its data
    "vae": (VAETraining, ClipData),
    "dit": (DiTTraining, ClipData),
    "captioner": (CaptionerTraining, ClipData),
    "upsampler": (UpsamplerTraining, PromptData),
}
CLASSES = {  # stage: the classes that are built where a config names none
    "vae": {"data.view": "views.Pixels", "model.vae": "vae.VAE"},
    "dit": {
        "data.view": "views.Latents",
        "model.text": "text.TextEncoder",
        "model.dit": "dit.DiT",
    },
    "captioner": {"data.view": "views.Captions", "model.captioner": "captioner.Captioner"},
    "upsampler": {"model.upsampler": "upsampler.Upsampler"},
}
FOOTAGE = {  # stage: its view of real footage, in place of toy clips, if data.folder is given
    "vae": "footage_data.FootagePixels",
    "dit": "footage_data.FootageLatents",
}
LINKS = {  # stage: arguments that follow from others, target -> source
    "vae": {},
    "dit": {
        "model.text.init_args.words": "data.words",
        "model.dit.init_args.channels": "data.view",
        "model.dit.init_args.text_width": "model.text.init_args.width",
    },
    "captioner": {"model.captioner.init_args.words": "data.words"},
    "upsampler": {
        "model.upsampler.init_args.words": "data.words",
        "model.upsampler.init_args.prompt_words": "data.prompt_words",
    },
}
# Flags of earlier versions, still understood.
RENAMED = {
    "--model.size": "--model.dit.size",
    "--model.target": "--model.dit.target",
    "--model.pooled": "--model.dit.pooled",
    "--model.text_depth": "--model.text.depth",
    "--model.text_length": "--model.text.length",
    "--model.guidance": "--model.guidance_scale",
    "--model.steps": "--model.num_inference_steps",
    "--data.vae": "--data.view.vae",
    "--data.captions": "--data.view.captions",
    "--data.ordered_steps": "--data.view.ordered_steps",
}


class SaveConfig(SaveConfigCallback):
    """Writes the whole config to the run's folder, whole or not at all."""

    def save_config(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if not trainer.fast_dev_run:  # a trial run leaves nothing behind
            text = self.parser.dump(self.config, skip_none=False)
            write_text(Path(trainer.default_root_dir) / "config.yaml", text)


class FitCLI(LightningCLI):
    """LightningCLI with our defaults: folder, logger, checkpoints, weight average, precision."""

    stage = "dit"  # set by `run_cli`
    view: dict[str, str] = {}  # likewise: in place of the stage's usual one
    folder_lock: ExitStack  # holds the run's folder until the training has ended

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.seed", "model.seed")
        for target, source in LINKS[self.stage].items():
            at_parsing = source.startswith("model.")
            channels = (lambda view: view.channels) if source == "data.view" else None
            apply_on = "parse" if at_parsing else "instantiate"
            parser.link_arguments(source, target, compute_fn=channels, apply_on=apply_on)
        classes = CLASSES[self.stage] | self.view
        parser.set_defaults(
            {key: {"class_path": f"minisora.{path}"} for key, path in classes.items()}
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        check_links(self.stage, args)
        try:
            super().parse_arguments(parser, args)
        except ValueError as error:  # a path with a NUL, say
            raise InputError(f"a config cannot be read: {error!r:.200}") from None
        given = self.config["fit"]
        if given.ckpt_path == "last":
            given.ckpt_path = newest(self.root / "checkpoints")
            if given.ckpt_path is None:
                folder = self.root / "checkpoints"
                warnings.warn(f"no checkpoint in {folder}: the training begins anew", stacklevel=1)
        elif given.ckpt_path:
            check_checkpoint(given.ckpt_path)

    def before_instantiate_classes(self) -> None:
        seed = self.config["fit"].data.seed
        check_seed(seed)
        torch.manual_seed(seed)  # the networks' first weights

    def instantiate_trainer(self, **arguments: Any) -> Trainer:
        given = self.config_init["fit"].trainer
        root = self.root
        arguments["default_root_dir"] = str(root)
        arguments["plugins"] = [*(given.plugins or []), SealedIO()]
        if given.devices in (1, "1") and given.num_nodes == 1:  # one process, whatever SLURM says
            arguments["plugins"].append(LightningEnvironment())
        if given.logger is None:
            arguments["logger"] = CSVLog(root)
        if given.precision is None:
            device = "cpu" if given.accelerator == "cpu" else best_device().type
            arguments["precision"] = "bf16-mixed" if fast_bfloat16(device) else "32-true"
        self.trainer_defaults["callbacks"] = self.default_callbacks(root)
        try:
            return super().instantiate_trainer(**arguments)
        except (ValueError, TypeError) as error:  # an accelerator, say, that Lightning lacks
            raise InputError(str(error)) from None

    @property
    def root(self) -> Path:
        """The folder that everything is written to."""
        return Path(self.config["fit"].trainer.default_root_dir or self.run_folder())

    def run_folder(self) -> Path:
        """configs/toy/dit.yaml -> runs/toy/dit; without a config runs/<stage>."""
        configs = self.config["fit"].config or []
        if not configs:
            return Path("runs") / self.stage
        first = Path(str(configs[0]))
        return Path("runs") / first.resolve().parent.name / first.stem

    def default_callbacks(self, root: Path) -> list[Callback]:
        """Weight average, log, a checkpoint every tenth of the run, export, progress bar."""
        given = self.config_init["fit"].trainer
        callbacks: list[Callback] = [Export(), RunLog()]
        if self.model.average:
            callbacks.insert(0, Average(self.model.average))
        # a trial run leaves nothing behind
        if given.enable_checkpointing is not False and not given.fast_dev_run:
            callbacks.append(Checkpoints(root / "checkpoints", max(1, given.max_steps // 10)))
        if given.enable_progress_bar is not False:
            callbacks.append(Progress())
        return callbacks

    def _run_subcommand(self, subcommand: str) -> None:
        """Trains, with what ends it early told apart: a signal, a damaged checkpoint."""
        try:
            super()._run_subcommand(subcommand)
        except SystemExit:  # Lightning's answer to signals
            code = 143 if self.trainer.received_sigterm else 130
            raise Interrupted(self.unfinished(), code) from None
        except Exception as error:
            if sentence := self.sentence(error):
                raise InputError(sentence) from error
            if self.model.begun or not self.config["fit"].ckpt_path:
                raise
            misfit = re.search(r"Error\(s\) in loading state_dict.*?\n\s*(.{,200})", str(error))
            problem = misfit[1] if misfit else f"{error!r:.200}"
            raise InputError(f"the checkpoint does not fit the config: {problem}") from None
        if self.trainer.received_sigterm:
            raise Interrupted(self.unfinished(), 143)

    def sentence(self, error: Exception) -> str:
        """What ended the training, if the user can mend it: a full disk, a loss that is not finite, a
        process that was killed. With the step that is kept."""
        cause = str(error)
        if isinstance(error, OSError):
            cause = f"{error.strerror or error}: {error.filename}"
        elif isinstance(error, InputError) and "DataLoader worker" in cause:
            cause = cause.strip().splitlines()[-1].removeprefix("minisora.errors.InputError: ")
        elif "DataLoader worker" in cause:
            cause = f"a process that reads data has died ({cause.splitlines()[0]:.200})"
        elif not isinstance(error, InputError):
            return ""
        steps = kept(self.root / "checkpoints") if self.model.begun else {}
        for step in [*steps][-1:]:
            cause += f"; the checkpoint of step {step} is kept (--ckpt_path last)"
        return cause

    def unfinished(self) -> str:
        steps = f"{self.trainer.global_step} of {self.trainer.max_steps} steps"
        return (
            f"interrupted after {steps}, so no weights are written: resume with --ckpt_path last"
        )

    def before_fit(self) -> None:
        """Refuses what would fail later, and holds the run's folder."""
        trainer = self.trainer
        if trainer.max_steps < 1:
            raise InputError("say how long to train: set trainer.max_steps, batches are endless")
        if trainer.precision in ("bf16-true", "16-true"):
            raise InputError(
                f"trainer.precision is {trainer.precision}: use bf16-mixed or 32-true"
            )
        if trainer.overfit_batches:
            raise InputError(
                "batches are endless and drawn by step: set data.clips to a few instead of trainer.overfit_batches"
            )
        self.model.check(self.datamodule)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            root = make_folder(trainer.default_root_dir)
            self.folder_lock.enter_context(locked(root))
            for folder in (root, root / "weights", root / "samples"):
                remove_partial(folder)
        for callback in trainer.callbacks:
            if isinstance(callback, Export):
                parts = yaml.safe_load(self.parser.dump(self.config))["fit"]
                callback.config = {name: parts[name] for name in ("model", "data")}
                callback.config["max_steps"] = trainer.max_steps


class ParsingCLI(FitCLI):
    """Parses and checks the arguments, and trains nothing."""

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...


def check_links(stage: str, arguments: list[str]) -> None:
    """Raises InputError for a flag that would be ignored, because its value follows from another."""
    for target, source in {**LINKS[stage], "model.seed": "data.seed"}.items():
        flag = "--" + target.replace(".init_args", "")
        if any(given.split("=")[0] in (flag, f"--{target}") for given in arguments):
            source = source.replace(".init_args", "").replace("data.words", "data.worlds")
            raise InputError(f"{flag} follows from {source}: set that instead")


def in_order(stage: str, arguments: list[str]) -> list[str]:
    """The arguments with configs first, so that a flag before --config counts too, and with flags
    of earlier versions under their present names."""
    configs, flags, rest = [], [], iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-c"):
            configs += [argument] if equals else [argument, *itertools.islice(rest, 1)]
        else:
            flags.append((RENAMED.get(flag, flag) if stage == "dit" else flag) + equals + value)
    return [*configs, *flags]


def names_folder(arguments: list[str]) -> bool:
    """Whether a config or a flag sets data.folder: clips of one's own instead of toy clips."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        flag, equals, value = argument.partition("=")
        if flag == "--data.folder":
            return True
        if flag in ("--config", "-c"):
            with suppress(Exception):  # LightningCLI will say what is wrong with it
                text = Path(value if equals else following).read_text(encoding="utf-8")
                if "folder" in yaml.safe_load(text)["data"]:
                    return True
    return False


def run_cli(kind: type[FitCLI], stage: str, arguments: list[str]) -> FitCLI:
    """Runs LightningCLI, with what users can get wrong raised as InputError."""
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\.|jsonargparse|torch\.")
    arguments = in_order(stage, arguments)
    model, data = STAGES[stage]
    view = {}
    if names_folder(arguments):
        if stage not in FOOTAGE:
            raise InputError(
                f"the {stage} trains on toy clips alone: leave data.folder out "
                "(vae and dit can train on footage)"
            )
        data, view = FootageData, {"data.view": FOOTAGE[stage]}
    defaults = {
        "accelerator": "auto",
        "devices": 1,
        "num_sanity_val_steps": 0,
        "check_val_every_n_epoch": None,
        "use_distributed_sampler": False,
        "enable_model_summary": False,
    }
    refused = argparse.ArgumentError, MisconfigurationException, ModuleNotFoundError
    unreadable = UnicodeDecodeError, RecursionError, yaml.YAMLError
    try:
        with ExitStack() as folder_lock:
            chosen = {"stage": stage, "view": view, "folder_lock": folder_lock}
            return type("CLI", (kind,), chosen)(
                model,
                data,
                trainer_defaults=defaults,
                args=["fit", *arguments],
                save_config_callback=SaveConfig,
                save_config_kwargs={"save_to_log_dir": False},
                seed_everything_default=False,
                parser_kwargs={"exit_on_error": False, "fit": {"exit_on_error": False}},
            )
    except refused as error:
        lines = (line.strip(" -") for line in str(error).splitlines())
        raise InputError("; ".join(filter(None, lines))) from None
    except unreadable as error:
        raise InputError(f"a config cannot be read: {error!r:.200}") from None


def parse(stage: str, arguments: list[str]) -> dict[str, Any]:
    """The whole config that these arguments stand for. Raises InputError if they do not parse."""
    cli = run_cli(ParsingCLI, stage, arguments)
    return yaml.safe_load(cli.parser.dump(cli.config))["fit"]


def train(stage: str, arguments: list[str]) -> None:
    """Trains `stage`, one of `STAGES`, with LightningCLI's own arguments: --config, --print_config,
    --ckpt_path, keys.

    Raises InputError if a checkpoint is missing or does not fit the config, naming the key.
    """
    keep_memory()
    run_cli(FitCLI, stage, arguments)
