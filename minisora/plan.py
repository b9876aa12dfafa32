"""`minisora plan`: what a training will cost, before any money is spent. A config is parsed, its
networks are built without memory, and the formulas of cost.py are applied to the clips of a step.

Not counted: waiting for data and for other devices, validation, the frozen text encoder, and what an
allocator wastes. Source of what DDP and FSDP2 hold: Rajbhandari et al., "ZeRO" (2019).
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml

from minisora import draws, weights
from minisora.cost import DiTCost, VAECost, muon_flops
from minisora.data import Bucket, ClipData, VideoData, View
from minisora.errors import InputError, check_numbers
from minisora.footage_data import FootageData
from minisora.optim import split_parameters
from minisora.patches import Grid
from minisora.text import TextEncoder
from minisora.vae import GROUP, VAE
from minisora.views import LatentView, check_shares_of

GPUS = {  # name: bfloat16 TFLOP/s without sparsity, and GB, from NVIDIA's data sheets
    "RTX4090": (165, 24), "A100": (312, 80), "H100": (989, 80), "H200": (989, 141), "B200": (2250, 180),
}  # fmt: skip
Parse = Callable[[str, list[str]], dict[str, Any]]  # `fit.parse`
Sizes = Collection[tuple[int, int]]  # (height, width) in pixels
ROWS = 100  # packed, whose mean is planned


@dataclass(frozen=True)
class Clip:
    """A clip of `frames` pictures, cut into patches of `cut` frames and pixels."""

    frames: int
    height: int
    width: int
    cut: Grid

    @property
    def grid(self) -> Grid:
        """Patches along t, h and w. The first frame has a group of its own; what sticks out is
        padded."""
        sides = (self.frames - 1 + GROUP, self.height, self.width)
        t, h, w = (math.ceil(side / cut) for side, cut in zip(sides, self.cut, strict=True))
        return t, h, w

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)


@dataclass(frozen=True)
class Spread:
    """A training on several devices: as copies (DDP), or in shards (FSDP2), where `sharing` devices
    may hold the tokens of a clip together."""

    devices: int = 1
    sharded: bool = False
    sharing: int = 1

    @property
    def name(self) -> str:
        shared = f", {self.sharing} share a clip" if self.sharing > 1 else ""
        return f"FSDP2{shared}" if self.sharded else "DDP" if self.devices > 1 else "one process"


@dataclass(frozen=True)
class Plan:
    """A training. `clips` are what its steps have on each rank: a kind of clip, the share of the
    steps that have it, and how many of it are in such a step, in packed rows on average."""

    cost: DiTCost | VAECost
    clips: list[tuple[Clip, float, float]]
    spread: Spread = Spread()
    steps: int = 1
    batches: int = 1  # accumulated in a step
    muon: bool = True
    average: bool = True
    mixed: bool = False
    checkpointing: bool = False
    evaluations: int = 1  # of the network, to make a clip
    row: int = 0  # tokens of the fullest packed row; 0: nothing is packed

    @cached_property
    def matrices(self) -> Counter[tuple[int, int]]:
        """How many matrices of which shape Muon steps."""
        found, _ = split_parameters(self.cost.trained, self.cost.blocks)
        return Counter((p.shape[0], p[0].numel()) for p in found) if self.muon else Counter()

    @cached_property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.cost.trained.parameters() if p.requires_grad)

    def of_a_step(self, count: Callable[[int], float]) -> float:
        """`count`, a function of a clip's tokens, over a step on one device."""
        mean = sum(share * n * count(clip.tokens) for clip, share, n in self.clips)
        return self.batches * mean / self.spread.sharing

    def flops(self) -> dict[str, float]:
        """FLOPs of a step on one device. Every device orthogonalizes all matrices."""
        forward, both = self.of_a_step(self.cost.forward), self.of_a_step(self.cost.training)
        muon = (n * muon_flops(*shape, self.mixed) for shape, n in self.matrices.items())
        return {
            "forward": forward,
            "backward": both - forward,
            "recomputation": forward if self.checkpointing else 0.0,
            "Muon": sum(muon),
        }

    def bytes(self) -> dict[str, float]:
        """Bytes on one device at the fullest moment of a step, in float32 but for activations."""
        of_muon = sum(rows * columns * n for (rows, columns), n in self.matrices.items())
        held = sum(p.numel() for p in self.cost.trained.parameters())  # also what is frozen
        numbers, shards = self.parameters, self.spread.devices if self.spread.sharded else 1
        copied = self.spread.devices > 1 and not self.spread.sharded
        return {
            "parameters": 4 * held / shards,
            # DDP has them again, in the order in which they are sent
            "gradients": (8 if copied else 4) * numbers / shards,
            "optimizer": (4 * of_muon + 8 * (numbers - of_muon)) / shards,
            "average": 4 * held / shards if self.average else 0.0,
            "working": max(self.kept(), self.updates()),
        }

    def stored(self, clip: Clip) -> int:
        """Bytes of a clip in a store that `minisora encode` wrote: in float16 its latents, and as
        many of the last frames of its groups."""
        return 2 * 2 * clip.tokens * self.cost.numbers

    def kept(self) -> float:
        """Bytes of activations, and of parameters that exist for them: autocast's copies, and of
        FSDP2 two whole blocks, one of them with gradients."""
        most = self.row or max(n * clip.tokens for clip, _, n in self.clips)
        settings = (self.mixed, self.checkpointing, self.spread.sharing)
        largest = max(sum(p.numel() for p in block.parameters()) for block in self.cost.blocks)
        whole = (2 * self.parameters if self.mixed else 0) + 12 * largest * self.spread.sharded
        return whole + self.cost.kept(math.ceil(most / self.spread.sharing), *settings)

    def updates(self) -> float:
        """Bytes of Muon at work: this device's part of all updates, and those of one shape, whole,
        in several copies."""
        sizes = [rows * columns * n for (rows, columns), n in self.matrices.items()]
        shards = self.spread.devices if self.spread.sharded else 1
        copies = (10 if self.mixed else 16) + 4 * self.spread.sharded
        return 4.0 * sum(sizes) / shards + copies * max(sizes, default=0)


# From a config


def read(path: str, keys: list[str], parse: Parse, devices: int | None, sizes: Sizes) -> Plan:
    """The plan of a config, with some of its keys set otherwise. `sizes`, if there are any, stand in
    for those of its clips, and the first is the usual one."""
    stage = stage_of(path)
    config = parse(stage, ["--config", path, *keys])
    model, trainer, data = (config[part] for part in ("model", "trainer", "data"))
    if trainer["max_steps"] < 1:
        raise InputError("say how long to train: set trainer.max_steps")
    view, cost, cut = dit_parts(path, config, parse) if stage == "dit" else vae_parts(config)
    source = data_of(data, view, sizes)
    rows = rows_of(source) if data["view"].get("init_args", {}).get("packed") else []
    full = [sum(clip_of(source, bucket, cut).tokens for bucket in row) for row in rows]
    return Plan(
        cost,
        clips_of(source, cut, rows),
        spread_of(trainer, devices),
        trainer["max_steps"],
        trainer["accumulate_grad_batches"],
        model["optimizer"] == "muon",
        bool(model["average"]),
        "bf16" in str(trainer.get("precision", "bf16-mixed")),  # `fit` takes it on GPUs
        bool(model.get("checkpointing")),
        model.get("num_inference_steps", 1) * (1 if model.get("guidance_scale") == 1 else 2),
        max(full, default=0),
    )


def stage_of(path: str) -> str:
    """What a config trains. Raises InputError unless it is a transformer or a VAE."""
    if Path(path).stem in ("dit", "vae"):
        return Path(path).stem
    try:
        model = yaml.safe_load(Path(path).read_text())["model"]
        return next(stage for stage in ("dit", "vae") if stage in model)
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, StopIteration):
        raise InputError(
            f"{path} has neither model.dit nor model.vae: only they are planned"
        ) from None


def built(part: dict[str, Any], **linked: Any) -> Any:
    """A network of a config, without memory for its numbers."""
    module, _, name = part["class_path"].rpartition(".")
    with torch.device("meta"):
        return getattr(import_module(module), name)(**part["init_args"] | linked)


class Planned(LatentView):
    """The view of a transformer's config, through a VAE that may have no weights yet."""

    def __init__(self, vae: VAE, lengths: dict[int, float] | None) -> None:
        check_shares_of(lengths)
        self.vae, self.lengths = vae, lengths


def vae_parts(config: dict[str, Any]) -> tuple[View, VAECost, Grid]:
    """What a VAE sees, what it costs, and the frames and pixels of a latent."""
    vae = built(config["model"]["vae"])
    if config["model"].get("encoder"):
        for part in (vae.encode_linear, vae.encoder):
            part.requires_grad_(False)  # as `VAETraining` does
    return View(), VAECost(vae), (GROUP, vae.space, vae.space)


def dit_parts(path: str, config: dict[str, Any], parse: Parse) -> tuple[View, DiTCost, Grid]:
    """What a transformer sees, what it costs, and the frames and pixels of a patch. The text encoder
    is counted without words, and without what is frozen in it."""
    form, vae = config["model"]["text"]["init_args"], vae_of(path, config, parse)
    dit = built(config["model"]["dit"], channels=vae.channels, text_width=form["width"])
    with torch.device("meta"):
        text = TextEncoder(
            [], **{name: form[name] for name in ("width", "depth", "heads", "length")}
        )
    t, h, w = dit.patch
    view = Planned(vae, lengths_of(config["data"]))
    return view, DiTCost(dit, text), (GROUP * t, vae.space * h, vae.space * w)


def vae_of(path: str, config: dict[str, Any], parse: Parse) -> VAE:
    """The VAE of a transformer's config: as its weights say, or before there are any the config that
    will make them, SCALE/vae.yaml for runs/SCALE/vae/weights."""
    folder = Path(config["data"]["view"]["init_args"]["vae"])
    maker = Path(path).parent.parent / folder.parent.parent.name / f"{folder.parent.name}.yaml"
    if not folder.exists() and maker.is_file():
        return built(parse("vae", ["--config", str(maker)])["model"]["vae"])
    parts = weights.read_config(folder)
    if "vae" not in parts:
        raise InputError(f"{folder} holds no VAE: set data.view.vae")
    with torch.device("meta"):
        return weights.build(parts["vae"], VAE, folder / "config.json", "vae", sys.maxsize)


def lengths_of(data: dict[str, Any]) -> dict[int, float] | None:
    """The lengths of clips in frames, with the share of the steps of each; None: a view's usual."""
    if (given := data["view"]["init_args"].get("lengths")) is not None:
        return {int(frames): share for frames, share in given.items()}
    return {data["num_frames"]: 1.0} if "folder" in data else None  # see `FootageLatents`


def data_of(data: dict[str, Any], view: View, sizes: Sizes) -> VideoData:
    """The clips of a config, or some of other `sizes`. Raises InputError if they are in a folder that
    does not exist yet."""
    shape = {name: data[name] for name in ("batch_size", "seed", "num_frames")}
    view.of_footage = "folder" in data and not sizes
    if not view.of_footage:
        given = [[*size] for size in sizes] or data.get("sizes")
        return ClipData(view, sizes=given, **shape)
    if not Path(data["folder"]).exists():
        raise InputError(
            f"no clips in {data['folder']} yet: say how large they will be, --sizes 256x256"
        )
    return FootageData(view, data["folder"], **shape)


def clip_of(data: VideoData, bucket: Bucket, cut: Grid) -> Clip:
    return Clip(bucket.frames, *data.sizes[bucket.size], cut)


def clips_of(
    data: VideoData, cut: Grid, rows: list[list[Bucket]]
) -> list[tuple[Clip, float, float]]:
    """What `Plan.clips` holds, the usual size and length first. Every packed row has all kinds."""
    shares, lengths = data.buckets, data.view.durations(data.num_frames)
    kinds = []
    for bucket in sorted(shares, key=lambda b: (b.size, -lengths[b.frames], -b.frames)):
        share, count = shares[bucket] / sum(shares.values()), data.view.batch_size(data, bucket)
        in_rows = sum(row.count(bucket) for row in rows)
        mean = (1.0, in_rows / len(rows)) if rows else (share, count)
        kinds.append((clip_of(data, bucket, cut), *mean))
    return kinds


def rows_of(data: VideoData) -> list[list[Bucket]]:
    """The clips of the packed rows of the first steps."""
    view: Any = data.view
    generators = [draws.generator("window", data.seed, step, 0) for step in range(ROWS)]
    return [[bucket for bucket, _ in view.fill_row(data, each)] for each in generators]


def spread_of(trainer: dict[str, Any], devices: int | None) -> Spread:
    """How the trainer's strategy spreads a training, over other `devices` than its own if given.
    Raises InputError for a strategy that is neither DDP nor our FSDP2."""
    devices = devices or trainer["num_nodes"] * count_of(trainer["devices"])
    strategy = trainer["strategy"]
    form = strategy if isinstance(strategy, dict) else {"class_path": strategy}
    name = form["class_path"].rpartition(".")[2].lower()
    sharded = name in ("fsdp2", "sharded")  # its two names
    if not sharded and name != "auto" and not name.startswith("ddp"):
        raise InputError(f"{name} is not planned: set trainer.strategy to auto, ddp or fsdp2")
    sharing = form.get("init_args", {}).get("context", 1)
    if devices % sharing:
        raise InputError(f"{devices} devices do not form groups of {sharing}: set --devices")
    return Spread(devices, sharded, sharing)


def count_of(devices: Any) -> int:
    """How many devices `trainer.devices` names: a number of them, or a list. Raises InputError if
    that depends on the machine."""
    if isinstance(devices, str) and "," in devices:
        devices = [name for name in devices.split(",") if name.strip()]
    count = len(devices) if isinstance(devices, list) else devices
    if not str(count).isdigit() or not int(count):
        raise InputError(
            f"trainer.devices is {devices}, which names no number: set --devices to how many there "
            "are in all"
        )
    return int(count)


# In words


def report(plan: Plan, gpu: str, mfu: float) -> str:
    """A plan to read, on devices that reach a share `mfu` of their peak."""
    check_gpu(gpu, mfu)
    spread, flops, memory = plan.spread, plan.flops(), plan.bytes()
    form = [spread.name, "bf16-mixed" if plan.mixed else "float32"]
    form += ["checkpointing"] if plan.checkpointing else []
    form += ["packed rows, clips on average"] if plan.row else []
    numbers, cards = f"{plan.parameters / 1e6:,.1f} M parameters", f"{spread.devices} x {gpu}"
    seconds = sum(flops.values()) / (GPUS[gpu][0] * 1e12 * mfu)
    hours = plan.steps * seconds / 3600
    tokens = plan.of_a_step(float) * spread.devices
    lines = [
        f"{numbers} on {cards}: {', '.join(form)}",
        "",
        *clip_lines(plan),
        "",
        f"FLOPs of a step on a device: {in_parts(flops, 1e12, 'T')}",
        f"memory of a device: {in_parts(memory, 1e9, 'GB')}; {gpu} has {GPUS[gpu][1]} GB",
        f"time: {seconds:.3g} s a step at {mfu:.0%} of {GPUS[gpu][0]} TFLOP/s; {plan.steps:,} steps of "
        f"{tokens:,.0f} tokens in {hours / 24:.3g} days, {hours * spread.devices:,.3g} GPU-hours",
    ]
    if sum(memory.values()) > GPUS[gpu][1] * 1e9:
        lines.append(
            "It does not fit: lower data.batch_size, set model.checkpointing, or spread it over more "
            "devices (trainer.strategy fsdp2)."
        )
    return "\n".join(lines)


def check_gpu(gpu: str, mfu: float) -> None:
    if gpu not in GPUS:
        raise InputError(f"no GPU {gpu!r}: choose from {', '.join(GPUS)}")
    check_numbers(0.001, 1, mfu=mfu)


def clip_lines(plan: Plan) -> list[str]:
    """A table of the kinds of clips."""
    lines = [
        f"{'clip':>17} {'tokens':>9} {'TFLOPs':>8} {'clips a step':>12} {'steps':>6} {'stored':>10}"
    ]
    for clip, share, n in plan.clips:
        size = f"{clip.frames} x {clip.height} x {clip.width}"
        trained = plan.cost.training(clip.tokens) / 1e12
        stored = f"{plan.stored(clip) / 1e6:,.3g} MB"
        count = f"{n:,.1f}" if plan.row else f"{n:,}"
        lines.append(
            f"{size:>17} {clip.tokens:>9,} {trained:>8.3g} {count:>12} {share:>6.1%} {stored:>10}"
        )
    return lines


def in_parts(parts: dict[str, float], unit: float, name: str) -> str:
    """A sum, and what it is made of."""
    shown = ", ".join(f"{part} {value / unit:.3g}" for part, value in parts.items() if value)
    return f"{sum(parts.values()) / unit:.3g} {name} ({shown})"


def report_clip(plan: Plan, clip: Clip, gpu: str, mfu: float) -> str:
    """What it takes to make a clip, and to train on it, with attention over all of its tokens."""
    cost, n, (peak, memory) = plan.cost, clip.tokens, GPUS[gpu]
    if not isinstance(cost, DiTCost):
        raise InputError("a VAE makes no clips: give --clip with the config of a transformer")
    making, kept = plan.evaluations * cost.forward(n), cost.kept(n, True, True, 1)
    hours = making / (peak * 1e12 * mfu * 3600)
    t, h, w = clip.grid
    return (
        f"a clip of {clip.frames} x {clip.height} x {clip.width}: {t} x {h} x {w} = {n:,} tokens\n"
        f"to make it: {plan.evaluations} x {cost.forward(n):.3g} FLOPs, of them attention "
        f"{cost.attention(n) / cost.forward(n):.1%}: {hours:,.3g} hours of one {gpu}\n"
        f"to train on it: {cost.training(n) + cost.forward(n):.3g} FLOPs and, with checkpointing, "
        f"{kept / 1e9:,.4g} GB of activations: at least {math.ceil(kept / memory / 1e9)} x {gpu}\n"
        f"attention's scores of one head and block, were they stored: {2 * n * n / 1e12:,.3g} TB"
    )
