"""`minisora fit`: LightningCLI over the training modules. Imported only when something is
trained."""

import argparse
import itertools
import logging
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import yaml
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from minisora.data import CaptionData, ClipData, LatentData, PromptData
from minisora.device import best_device, fast_bfloat16, keep_memory
from minisora.errors import InputError
from minisora.training import (
    CaptionerTraining,
    DiTTraining,
    Export,
    Progress,
    UpsamplerTraining,
    VAETraining,
)

STAGES = {
    "vae": (VAETraining, ClipData),
    "dit": (DiTTraining, LatentData),
    "captioner": (CaptionerTraining, CaptionData),
    "upsampler": (UpsamplerTraining, PromptData),
}


class KeepLog(Callback):
    """A resumed run starts a new metrics.csv: the old one is kept beside it, and comes back if the
    run cannot begin."""

    def __init__(self, log: Path) -> None:
        names = (log.with_name(f"metrics-before-{number}.csv") for number in itertools.count(1))
        self.path, self.kept = log, next(name for name in names if not name.exists())
        log.rename(self.kept)

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        if not self.path.exists():
            self.kept.rename(self.path)


class FitCLI(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.seed", "model.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        path = self.config["fit"].ckpt_path
        if path and not Path(path).is_file():
            raise InputError(f"no such checkpoint: {path}")
        if path and not zipfile.is_zipfile(path):  # torch.save writes zip files
            raise InputError(f"{path} is damaged or no checkpoint: use an earlier one")

    def instantiate_trainer(self, **arguments: Any) -> Trainer:
        asked = self.config_init["fit"].trainer
        if asked.enable_progress_bar is not False:
            self.trainer_defaults["callbacks"].append(Progress())
        if asked.precision is None:
            device = "cpu" if asked.accelerator == "cpu" else best_device().type
            arguments["precision"] = "bf16-mixed" if fast_bfloat16(device) else "32-true"
        try:
            return super().instantiate_trainer(**arguments)
        except (ValueError, TypeError) as error:  # what Lightning does not know, such as a device
            raise InputError(str(error)) from None

    def before_fit(self) -> None:
        """Refuses what would fail later, and keeps the log that a resumed run would overwrite."""
        trainer = self.trainer
        if trainer.max_steps < 1:
            raise InputError("say how long to train: set trainer.max_steps, batches are endless")
        self.model.check(self.datamodule)
        for callback in trainer.callbacks:
            if isinstance(callback, WeightAveraging) and callback._device is None:
                # it would average on the CPU, since it copies the model before that is moved
                callback._device = trainer.strategy.root_device
            if isinstance(callback, Export):
                parts = yaml.safe_load(self.parser.dump(self.config))["fit"]
                callback.config = {name: parts[name] for name in ("model", "data")}
                callback.config["max_steps"] = trainer.max_steps
        if self.config["fit"].ckpt_path and isinstance(trainer.logger, CSVLogger):
            log = Path(trainer.logger.log_dir) / "metrics.csv"
            if log.exists() and trainer.is_global_zero:
                trainer.callbacks.append(KeepLog(log))


def fit(stage: str, arguments: list[str]) -> None:
    """Trains `stage`, one of `STAGES`, with LightningCLI's own arguments: --config, --print_config,
    --ckpt_path, keys.

    Raises InputError if a checkpoint is missing or does not fit the config, naming the key.
    """
    keep_memory()
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\.|jsonargparse|torch\.")
    model, data = STAGES[stage]
    defaults = {
        "accelerator": "auto",
        "devices": 1,
        "callbacks": [Export()],
        "num_sanity_val_steps": 0,
        "check_val_every_n_epoch": None,
        "use_distributed_sampler": False,
        "enable_model_summary": False,
    }
    try:
        FitCLI(
            model,
            data,
            trainer_defaults=defaults,
            args=["fit", *arguments],
            save_config_kwargs={"overwrite": True},
            seed_everything_default=False,
            parser_kwargs={"exit_on_error": False, "fit": {"exit_on_error": False}},
        )
    except (argparse.ArgumentError, MisconfigurationException, ModuleNotFoundError) as error:
        raise InputError(str(error)) from None
    except KeyError as error:
        if "pytorch-lightning_version" not in str(error):
            raise
        raise InputError("the file of --ckpt_path is no checkpoint of a training") from None
    except RuntimeError as error:
        misfit = re.search(r"Error\(s\) in loading state_dict.*?\n\s*(.{,200})", str(error))
        if not misfit:
            raise
        raise InputError(f"the checkpoint does not fit the config: {misfit[1]}") from None
