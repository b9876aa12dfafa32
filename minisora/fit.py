"""`minisora fit`: LightningCLI over the training modules. Imported only when something is trained."""

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from minisora.data import ClipData, LatentData
from minisora.device import best_device, fast_bfloat16, keep_memory
from minisora.training import DiTTraining, Export, Progress, VAETraining

STAGES = {"vae": (VAETraining, ClipData), "dit": (DiTTraining, LatentData)}


class FitCLI(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.seed", "model.seed")


def fit(stage: str, arguments: list[str]) -> None:
    """Trains `stage`, "vae" or "dit", with LightningCLI's own arguments: --config, --print_config, --ckpt_path, keys."""
    keep_memory()
    model, data = STAGES[stage]
    defaults = {
        "accelerator": "auto", "devices": 1, "precision": "bf16-mixed" if fast_bfloat16(best_device().type) else "32-true",
        "callbacks": [Progress(), Export()], "num_sanity_val_steps": 0, "check_val_every_n_epoch": None,
        "use_distributed_sampler": False, "log_every_n_steps": 10,
    }  # fmt: skip
    FitCLI(model, data, trainer_defaults=defaults, args=["fit", *arguments], save_config_kwargs={"overwrite": True},
           seed_everything_default=True)  # fmt: skip
