"""Plans against measurements: FLOPs as PyTorch counts them, and the bytes that live in a real step."""

import json
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, refused
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from minisora import draws, plan
from minisora.cli import main
from minisora.cost import DiTCost, VAECost, muon_flops
from minisora.data import ClipData, VideoData
from minisora.dit import DiT
from minisora.dit_training import DiTTraining
from minisora.errors import InputError
from minisora.fit import parse
from minisora.footage import INDEX, Footage
from minisora.footage_data import FootageData, FootageLatents, FootagePixels
from minisora.latents import BYTES, layout
from minisora.optim import orthogonalize
from minisora.plan import Clip, Plan, Spread
from minisora.text import TextEncoder
from minisora.training import Training, VAETraining
from minisora.vae import GROUP, VAE
from minisora.views import Latents, Pixels

CHANNELS, PATCH, SPACE, WORDS = 8, (1, 2, 2), 4, ["a", "red", "circle"]
CPU_ATTENTION = {  # the kernels of the CPU do as many as those of GPUs, which PyTorch counts
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (
        flop_counter.sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
        flop_counter.sdpa_backward_flop_count(g, q, k, v)
    ),
}


class Case:
    """A training module, a batch for it, and the plan of both."""

    def __init__(self, module: Training, batch: dict, cost: Any, clip: Clip, count: int) -> None:
        self.module, self.batch = module, batch
        again = getattr(module, "recomputes", False)
        self.plan = Plan(cost, [(clip, 1.0, count)], average=False, checkpointing=again)

    def loss(self) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is no trainer to log to
            return self.module.training_step(self.batch, 0)


def dit_case(size: str, frames: int, side: int, count: int, checkpointing: bool = False) -> Case:
    dit = DiT(size, channels=CHANNELS, patch=PATCH, text_width=64, pooled=False)
    text = TextEncoder(WORDS, width=64)
    module = DiTTraining(text, dit, checkpointing=checkpointing)
    module.recomputes = checkpointing
    latents = torch.randn(count, CHANNELS, 1 + (frames - 1) // GROUP, side // SPACE, side // SPACE)
    batch = {"latents": latents, "captions": ["a red circle"] * count, "modes": ["text"] * count}
    batch |= {"start": torch.zeros(count), "step": 0}
    clip = Clip(frames, side, side, (GROUP, SPACE * PATCH[1], SPACE * PATCH[2]))
    return Case(module, batch, DiTCost(dit, text), clip, count)


def vae_case(frames: int, side: int, count: int, frozen: bool = False, **form: int) -> Case:
    vae = VAE(channels=CHANNELS, space=SPACE, **form)
    module = VAETraining(vae)
    if frozen:
        module.keep_encoder(VAE(channels=CHANNELS, space=SPACE, **form))
    batch = {"video": torch.rand(count, 3, frames, side, side), "step": 0}
    clip = Clip(frames, side, side, (GROUP, SPACE, SPACE))
    return Case(module, batch, VAECost(vae), clip, count)


CASES: dict[str, Callable[[], Case]] = {
    "wide": lambda: dit_case("256x2", 17, 32, 4),
    "deep": lambda: dit_case("64x8", 17, 64, 2),
    "long": lambda: dit_case("96x3", 65, 64, 1),
    "image": lambda: dit_case("128x4", 1, 128, 4),
    "few tokens": lambda: dit_case("192x4", 9, 32, 1),
    "checkpointing": lambda: dit_case("128x6", 17, 64, 2, checkpointing=True),
    "vae": lambda: vae_case(17, 64, 2, width=64, depth=3),
    "wide decoder": lambda: vae_case(
        5, 64, 2, width=32, depth=2, decoder_width=128, decoder_depth=4
    ),
    "frozen encoder": lambda: vae_case(
        17, 64, 2, frozen=True, width=128, depth=3, decoder_width=64, decoder_depth=3
    ),
}
EVERY_CASE = pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())


# FLOPs


def counted(call: Callable[[], Any]) -> int:
    """The FLOPs of a call, as PyTorch counts them."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        call()
    return counter.get_total_flops()


@EVERY_CASE
def test_flops_are_those_of_a_real_step(make: Callable[[], Case], in_float32: None) -> None:
    case = make()
    planned = sum(case.plan.flops().values()) - case.plan.flops()["Muon"]
    assert planned == pytest.approx(counted(lambda: case.loss().backward()), rel=0.05)


@pytest.mark.parametrize("size", ["B", "XL", "3B"])
def test_flops_of_large_networks(size: str) -> None:
    """Counted by PyTorch from the shapes alone."""
    with torch.device("meta"):
        dit, text = (
            DiT(size, channels=16, text_width=512, pooled=False),
            TextEncoder([], width=512),
        )
        row, level, words = torch.empty(1, 1280, 64), torch.empty(1), torch.empty(1, 16, 512)
        measured = counted(lambda: dit(row, level, words, torch.empty(1, 1280, 5)))
    assert DiTCost(dit, text).forward(1280) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (32, 128)])
@pytest.mark.parametrize("in_bfloat16", [False, True])
def test_flops_of_muon(shape: tuple[int, int], in_bfloat16: bool) -> None:
    matrix = torch.randn(1, *shape)
    measured = counted(lambda: orthogonalize(matrix, in_bfloat16=in_bfloat16))
    assert muon_flops(*shape, in_bfloat16) == pytest.approx(measured, rel=0.001)


def test_attention_alone_grows_with_the_square_of_tokens() -> None:
    cost = CASES["wide"]().plan.cost
    grown = cost.forward(2 * 10**6) / cost.forward(10**6)
    assert grown == pytest.approx(4, rel=0.001)


# Bytes


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, `now` and at most, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        self.count(result)
        return result

    def count(self, tensors: Any) -> None:
        storages = [
            x.untyped_storage() for x in tree_leaves(tensors) if isinstance(x, torch.Tensor)
        ]
        for storage in storages:
            if storage not in self.known:
                self.known.add(storage)
                weakref.finalize(storage, self.free, storage.nbytes())
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)

    def free(self, count: int) -> None:
        self.now -= count


def peak_of_second_step(case: Case) -> int:
    """The most bytes that are alive in a step of a training that is under way."""
    optimizer = case.module.optimizer()
    for _ in range(2):
        with Live() as live:
            states = [list(state.values()) for state in optimizer.state.values()]
            trained = list(case.module.parameters())
            live.count([trained, [p.grad for p in trained], states])
            loss = case.loss()
            optimizer.zero_grad()  # Lightning's order
            loss.backward()
            optimizer.step()
    return live.peak


@EVERY_CASE
def test_bytes_are_those_of_a_real_step(make: Callable[[], Case], in_float32: None) -> None:
    case = make()
    planned = sum(case.plan.bytes().values())
    assert planned == pytest.approx(peak_of_second_step(case), rel=0.1)


def test_parameters_are_counted_exactly() -> None:
    case = CASES["deep"]()
    assert case.plan.parameters == sum(p.numel() for p in case.module.parameters())


STATE = ("parameters", "gradients", "optimizer", "average")


def spread(spread: Spread) -> dict[str, float]:
    """The bytes of a plan on several devices."""
    return Plan(CASES["deep"]().plan.cost, [(Clip(17, 64, 64, (4, 8, 8)), 1.0, 2)], spread).bytes()


@pytest.mark.parametrize("part", STATE)
def test_shards_share_the_state(part: str) -> None:
    assert spread(Spread(8, sharded=True))[part] == pytest.approx(spread(Spread())[part] / 8)


@pytest.mark.parametrize("part", [part for part in STATE if part != "gradients"])
def test_copies_do_not_share_it(part: str) -> None:
    assert spread(Spread(8))[part] == spread(Spread())[part]


def test_copies_hold_gradients_twice() -> None:
    assert spread(Spread(8))["gradients"] == 2 * spread(Spread())["gradients"]


def test_devices_that_share_a_clip_keep_less_of_it() -> None:
    alone, shared = spread(Spread(8, True)), spread(Spread(8, True, sharing=8))
    assert shared["working"] < alone["working"] / 2


# Clips


@pytest.mark.parametrize(
    ("clip", "tokens"),
    [
        ((1, 32, 32), 4 * 4),
        ((17, 32, 32), 5 * 4 * 4),
        ((18, 32, 32), 6 * 4 * 4),
        ((17, 33, 32), 5 * 5 * 4),
    ],
)
def test_tokens_of_clips(clip: tuple[int, int, int], tokens: int) -> None:
    assert Clip(*clip, (4, 8, 8)).tokens == tokens


def test_a_minute_at_1080p_is_three_million_tokens() -> None:
    assert Clip(1441, 1080, 1920, (4, 16, 16)).tokens == 361 * 68 * 120


def test_a_store_has_latents_and_images(tmp_path: Path) -> None:
    footage, case = Footage(folder_of(tmp_path, [(17, 32, 48)])), CASES["vae"]()
    written = layout(footage, range(1), case.module.vae).values()
    stored = case.plan.stored(Clip(17, 32, 48, (GROUP, SPACE, SPACE)))
    assert stored == BYTES * sum(torch.Size(shape).numel() for shape in written)


def test_a_packed_row_holds_all_its_clips() -> None:
    cost, clip = CASES["deep"]().plan.cost, Clip(17, 64, 64, (4, 8, 8))
    row = Plan(cost, [(clip, 1.0, 3.0), (clip, 1.0, 2.0)], row=5 * clip.tokens)
    assert row.kept() == Plan(cost, [(clip, 1.0, 5)]).kept()


# Clips as they are trained on


def folder_of(path: Path, clips: list[tuple[int, int, int]]) -> Path:
    """The index of clips of so many frames, height and width."""
    names = ("frames", "height", "width")
    sides = [dict(zip(names, clip, strict=True)) for clip in clips]
    rows = [{"clip": f"{i}.mp4", "start": 0, "end": 1, **each} for i, each in enumerate(sides)]
    lines = [{"format": "clips"}, {"file": "0.mov", "sha256": "0", "clips": rows}]
    (path / INDEX).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# most groups are of 32 x 48, most pixels of 96 x 96; the last clip is too short for 9 frames
CLIPS = [(40, 32, 48), (37, 32, 48), (36, 96, 96), (5, 48, 32)]
LENGTHS, SIZES = {1: 0.25, 9: 0.75}, [[32, 64], [64, 64]]
SAME: dict[str, Any] = {"batch_size": 6, "num_frames": 9, "seed": 0}


@pytest.fixture
def trainings(tmp_path: Path, vae_folder: str) -> dict[str, VideoData]:
    """The data of four trainings."""
    folder = str(folder_of(tmp_path, CLIPS))
    return {
        "footage dit": FootageData(FootageLatents(vae_folder, LENGTHS), folder, **SAME),
        "footage vae": FootageData(FootagePixels(), folder, **SAME),
        "toy dit": ClipData(Latents(vae_folder, LENGTHS), sizes=SIZES, **SAME),
        "toy vae": ClipData(Pixels(), sizes=SIZES, **SAME),
    }


def planned(kind: str, folder: Path, vae_folder: str, *keys: str) -> Plan:
    """The plan of such a training."""
    source, stage = kind.split()
    scale, own = ("toy", f"sizes={SIZES}") if source == "toy" else ("clips", f"folder={folder}")
    keys = (own, *(f"{name}={value}" for name, value in SAME.items()), *keys)
    if stage == "dit":
        keys = (*keys, f"view.vae={vae_folder}", f"view.lengths={LENGTHS}")
    path = str(CONFIGS / scale / f"{stage}.yaml")
    return plan.read(path, [f"--data.{key}" for key in keys], parse, None, [])


@pytest.mark.parametrize("kind", ["footage dit", "footage vae", "toy dit", "toy vae"])
def test_steps_are_those_of_the_training(
    kind: str, trainings: dict[str, VideoData], tmp_path: Path, vae_folder: str
) -> None:
    data = trainings[kind]
    total = sum(data.buckets.values())
    steps = {
        (bucket.frames, *data.sizes[bucket.size]): (
            pytest.approx(share / total),
            data.view.batch_size(data, bucket),
        )
        for bucket, share in data.buckets.items()
    }
    clips = planned(kind, tmp_path, vae_folder).clips
    assert {(c.frames, c.height, c.width): (share, n) for c, share, n in clips} == steps


@pytest.mark.parametrize("kind", ["footage dit", "toy dit"])
def test_the_usual_clip_comes_first(
    kind: str, trainings: dict[str, VideoData], tmp_path: Path, vae_folder: str
) -> None:
    usual, (first, _, _) = trainings[kind].usual, planned(kind, tmp_path, vae_folder).clips[0]
    size = trainings[kind].sizes[usual.size]
    assert (first.frames, first.height, first.width) == (usual.frames, *size)


def test_rows_are_those_of_a_packed_training(
    trainings: dict[str, VideoData], tmp_path: Path, vae_folder: str
) -> None:
    made = planned("footage dit", tmp_path, vae_folder, "view.packed=true")
    data = trainings["footage dit"]
    view: Any = data.view
    generators = [draws.generator("window", 0, step, 0) for step in range(500, 800)]
    rows = [bucket for each in generators for bucket, _ in view.fill_row(data, each)]
    latents = sum(view.latents_of(data, bucket) for bucket in rows) / 300
    assert made.of_a_step(float) * 4 == pytest.approx(latents, rel=0.01)  # 4 are a token
    assert sum(n for _, _, n in made.clips) == pytest.approx(len(rows) / 300, rel=0.1)


def test_the_fullest_row_may_be_one_large_clip(tmp_path: Path, vae_folder: str) -> None:
    folder_of(tmp_path, CLIPS)
    keys = "view.packed=true", "batch_size=1"
    made = planned("footage dit", tmp_path, vae_folder, *keys)
    assert made.row == max(clip.tokens for clip, _, _ in made.clips)


# Devices


def trainer(**keys: Any) -> dict[str, Any]:
    return {"strategy": "auto", "devices": 1, "num_nodes": 1} | keys


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        ("auto", "DDP"),
        ("ddp", "DDP"),
        ("ddp_find_unused_parameters_true", "DDP"),
        ({"class_path": "lightning.pytorch.strategies.DDPStrategy"}, "DDP"),
        ("fsdp2", "FSDP2"),
        ({"class_path": "minisora.parallel.Sharded"}, "FSDP2"),
        (
            {"class_path": "minisora.parallel.Sharded", "init_args": {"context": 2}},
            "FSDP2, 2 share a clip",
        ),
    ],
)
def test_strategies_are_told_apart(strategy: Any, name: str) -> None:
    assert plan.spread_of(trainer(strategy=strategy, devices=8), None).name == name


@pytest.mark.parametrize(
    ("devices", "count"), [(2, 6), ("2", 6), ([0, 1], 6), ("0,1", 6), ([5], 3), ("0,", 3)]
)
def test_devices_of_three_nodes(devices: Any, count: int) -> None:
    assert plan.spread_of(trainer(devices=devices, num_nodes=3), None).devices == count


@pytest.mark.parametrize("devices", ["auto", -1, "-1", [], 0])
def test_devices_without_a_number_are_refused(devices: Any) -> None:
    with pytest.raises(InputError, match="names no number: set --devices"):
        plan.spread_of(trainer(devices=devices), None)


@pytest.mark.parametrize("devices", ["auto", -1])
def test_devices_may_be_given(devices: Any) -> None:
    assert plan.spread_of(trainer(devices=devices), 8).devices == 8


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_2"])
def test_other_strategies_are_refused(strategy: str) -> None:
    with pytest.raises(InputError, match=f"{strategy} is not planned: set trainer.strategy"):
        plan.spread_of(trainer(strategy=strategy), None)


# Configs


def test_keys_are_set_otherwise() -> None:
    keys = ["--model.dit.size=XL", "--model.text.width=1024"]
    made = plan.read(str(CONFIGS / "laptop/dit.yaml"), keys, parse, None, [])
    assert made.parameters == pytest.approx(752e6, rel=0.01)


def test_a_kept_encoder_is_not_trained() -> None:
    made = plan.read(str(CONFIGS / "laptop/decoder.yaml"), [], parse, None, [])
    vae: Any = made.cost.trained
    learning = [*vae.decoder.parameters(), *vae.decode_linear.parameters()]
    assert made.parameters == sum(p.numel() for p in learning)


def printed(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    main(["plan", str(CONFIGS / "toy/dit.yaml"), *arguments])
    return capsys.readouterr().out


def test_a_plan_says_all_that_is_asked_for(capsys: pytest.CaptureFixture) -> None:
    text = printed(capsys)
    parts = ("parameters", "tokens", "FLOPs", "memory", "GPU-hours", "stored", "Muon", "average")
    assert [part for part in parts if part not in text] == []


def test_a_plan_says_what_a_clip_takes(capsys: pytest.CaptureFixture) -> None:
    assert "361 x 135 x 240 = 11,696,400 tokens" in printed(capsys, "--clip", "1441x1080x1920")


def test_a_plan_says_what_does_not_fit(capsys: pytest.CaptureFixture) -> None:
    assert "does not fit" in printed(capsys, "--gpu", "RTX4090", "--set", "data.batch_size=100000")


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ("toy/dit.yaml", ["--gpu", "A1"], "no GPU 'A1': choose from RTX4090"),
        ("toy/dit.yaml", ["--mfu", "1.5"], "mfu must be from 0.001 to 1, got 1.5"),
        ("toy/dit.yaml", ["--devices", "0"], "must be a whole number"),
        ("toy/dit.yaml", ["--clip", "17x32"], "3 numbers with x between them"),
        ("toy/dit.yaml", ["--set", "model.dit.size=huge"], "no DiT of size 'huge'"),
        ("toy/dit.yaml", ["--set", "model.wings=2"], "model.wings"),
        ("toy/dit.yaml", ["--set", "data.view.vae=nowhere"], "no weights in nowhere"),
        ("toy/dit.yaml", ["--set", "data.view.lengths={1: 0}"], "give no length a share"),
        ("toy/dit.yaml", ["--set", "data.view.lengths={21: 1}"], "has 21 frames, clips have 17"),
        ("toy/vae.yaml", ["--clip", "17x32x32"], "a VAE makes no clips"),
        ("laptop/captioner.yaml", [], "neither model.dit nor model.vae"),
        ("toy/none.yaml", [], "neither model.dit nor model.vae"),
        ("none/dit.yaml", [], "does not exist"),
        ("gpu/dit.yaml", [], "no clips in runs/latents yet"),
        (
            "cluster/dit.yaml",
            ["--sizes", "32x32", "--devices", "3"],
            "3 devices do not form groups",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(
    config: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    assert message in refused(capsys, "plan", CONFIGS / config, *arguments)


def test_a_training_without_an_end_is_refused() -> None:
    with pytest.raises(InputError, match=r"set trainer\.max_steps"):
        plan.read(str(CONFIGS / "toy/dit.yaml"), ["--trainer.max_steps=-1"], parse, None, [])
