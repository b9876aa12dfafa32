"""Trainings in two processes (gloo, on the CPU) against trainings in one."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import CONFIGS, fit, keep_checkpoints, shake
from safetensors.torch import load_file
from torch import Tensor

from minisora import InputError, weights
from minisora.data import StepData
from minisora.dit import DiT
from minisora.dit_training import DiTTraining
from minisora.draws import Ranks
from minisora.flow import flow_loss
from minisora.parallel import Context, Sharded, ranks_of
from minisora.text import TextEncoder
from minisora.training import Training, VAETraining
from minisora.vae import VAE

STEPS = 4
CONTEXT = '{"class_path": "minisora.parallel.Sharded", "init_args": {"context": 2}}'
STRATEGIES = {"ddp": "ddp", "fsdp2": "fsdp2", "context": CONTEXT}
# clips of sizes and lengths that two processes cannot always share evenly, half of them with known
# tokens
COMMON = [
    "--data.sizes=[[32,32],[24,24]]",
    "--data.view.lengths={1: 0.3, 5: 0.2, 17: 0.5}",
    "--data.view.known=0.5",
    "--data.validation_clips=2",
    "--model.num_inference_steps=1",
    "--trainer.precision=32-true",
    "--trainer.accelerator=cpu",
    f"--trainer.max_steps={STEPS}",
]
VALIDATED = f"--trainer.val_check_interval={STEPS}"
UNVALIDATED = "--trainer.limit_val_batches=0"  # takes longer than the steps
KINDS = {
    "buckets": [UNVALIDATED],
    "packed": [VALIDATED, "--data.view.packed=true", "--model.token_drop=0.5"],
}
EVERY_WAY = pytest.mark.parametrize("way", STRATEGIES)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def arguments(root: Path, kind: str, folder: str) -> list[str]:
    """Arguments of `fit` for a run in <folder>/dit, with a checkpoint of step 2 in its kept/."""
    kept = keep_checkpoints(root / folder / "kept", 2)
    return [f"--data.view.vae={root}/vae", *COMMON, *KINDS[kind], *kept]


def resumed(root: Path, folder: str, before: str) -> list[str]:
    """Arguments of a run that goes on from step 2 of another, of packed rows."""
    start = f"--ckpt_path={root}/{before}/kept/step=2.ckpt"
    return [*arguments(root, "packed", folder), UNVALIDATED, start]


def fit_for_both(root: Path, *given: str) -> None:
    """Trains in one process with the clips and draws of two ranks."""
    now = SimpleNamespace(rank=0)

    def step(self: DiTTraining, batch: dict, _: int) -> Tensor:
        losses = []
        for now.rank in range(2):
            own = self.trainer.datamodule.batch(batch["step"])
            losses.append(self.clip_losses({"step": batch["step"], **own}))
        return self.mean_of_step(torch.cat(losses))

    with pytest.MonkeyPatch.context() as patch:
        for kind in (StepData, Training):
            patch.setattr(kind, "ranks", property(lambda _: Ranks(now.rank, 2)))
        patch.setattr(DiTTraining, "training_step", step)
        fit("dit", root, *given)


def in_two_processes(root: Path, *trainings: list[str]) -> str:
    """Runs trainings under torchrun, and returns what they printed."""
    file = root / "trainings.json"
    file.write_text(json.dumps(trainings))
    script = str(Path(__file__).with_name("several.py"))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *torchrun, script, str(file)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stderr


def training(root: Path, folder: str, strategy: str, *given: str) -> list[str]:
    """The arguments of `minisora` that train on two processes."""
    own = [f"--trainer.default_root_dir={root / folder / 'dit'}", "--trainer.devices=2"]
    quiet = "--trainer.enable_progress_bar=false"
    config = f"--config={CONFIGS}/tiny/dit.yaml"
    return ["fit", "dit", config, quiet, *own, f"--trainer.strategy={strategy}", *given]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained VAE in vae/."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("parallel")
    weights.save(root / "vae", {}, vae=shake(VAE(channels=4, space=8, width=16, depth=1)))
    return root


@pytest.fixture(scope="module")
def runs(root: Path) -> Path:
    """A folder with runs: for each kind of rows `one` in one process, `both` in one process for two
    ranks, and `ddp`, `fsdp2` and `context` in two. Those called `resumed` go on from a checkpoint of
    another number of processes. What was printed is in printed.txt."""
    trainings = []
    for kind in KINDS:
        fit("dit", root / kind / "one", *arguments(root, kind, f"{kind}/one"))
        fit_for_both(root / kind / "both", *arguments(root, kind, f"{kind}/both"))
        for way, strategy in STRATEGIES.items():
            folder = f"{kind}/{way}"
            trainings.append(training(root, folder, strategy, *arguments(root, kind, folder)))
    for way in ("context", "fsdp2"):
        folder, strategy = f"packed/resumed-{way}", STRATEGIES[way]
        given = resumed(root, folder, "packed/one")
        trainings.append(training(root, folder, strategy, *given))
    (root / "printed.txt").write_text(in_two_processes(root, *trainings))
    folder = "packed/resumed-both"
    fit_for_both(root / folder, *resumed(root, folder, "packed/fsdp2"))
    return root


def losses(run: Path) -> Tensor:
    """The loss of each step, as it stands in metrics.csv."""
    with open(run / "dit" / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    assert [int(row["step"]) for row in rows] == list(range(STEPS))
    return torch.tensor([float(row["loss"]) for row in rows])


def checkpoint(run: Path) -> dict:
    """The checkpoint of the last step."""
    return torch.load(run / "dit" / "checkpoints" / f"step={STEPS}.ckpt", weights_only=False)


def reference(way: str) -> str:
    """The run in one process that a run in two should equal."""
    return "one" if way == "context" else "both"


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


# The same training


@EVERY_KIND
@EVERY_WAY
def test_losses_are_those_of_one_process(runs: Path, kind: str, way: str) -> None:
    expected = losses(runs / kind / reference(way))
    assert torch.allclose(losses(runs / kind / way), expected, rtol=0, atol=1e-5)


@EVERY_KIND
def test_two_ranks_train_on_other_clips_than_one(runs: Path, kind: str) -> None:
    """Else the test above could not tell whether ranks draw alike."""
    one, two = losses(runs / kind / "one"), losses(runs / kind / "both")
    assert (one - two).abs().min() > 1e-3


@EVERY_KIND
@EVERY_WAY
@pytest.mark.parametrize("part", ["current_model_state", "state_dict"], ids=["weights", "average"])
def test_checkpoints_hold_what_those_of_one_process_do(
    runs: Path, kind: str, way: str, part: str
) -> None:
    ours, theirs = checkpoint(runs / kind / way), checkpoint(runs / kind / reference(way))
    assert difference(ours[part], theirs[part]) < 1e-3


@EVERY_KIND
def test_shards_step_as_whole_copies_do(runs: Path, kind: str) -> None:
    """Muon gathers whole matrices, so nothing but the order of sums is another."""
    ours, theirs = checkpoint(runs / kind / "fsdp2"), checkpoint(runs / kind / "ddp")
    assert difference(ours["current_model_state"], theirs["current_model_state"]) < 1e-5


@EVERY_WAY
def test_the_state_of_the_optimizer_is_whole(runs: Path, way: str) -> None:
    states = checkpoint(runs / "packed" / way)["optimizer_states"][0]["state"]
    expected = checkpoint(runs / "packed" / "one")["optimizer_states"][0]["state"]
    assert states.keys() == expected.keys()
    for number, state in states.items():
        for name, value in state.items():
            other = expected[number][name]
            assert type(value) is type(other)
            assert not isinstance(value, Tensor) or value.shape == other.shape


@EVERY_WAY
def test_the_average_is_exported(runs: Path, way: str) -> None:
    run = runs / "packed" / way
    exported = load_file(run / "dit" / "weights" / "dit.safetensors")
    averaged = checkpoint(run)["state_dict"]
    expected = {name: averaged[f"dit.{name}"].bfloat16() for name in exported}
    assert all(torch.equal(exported[name], expected[name]) for name in exported)


@EVERY_WAY
def test_the_bundle_names_the_class_of_the_network(runs: Path, way: str) -> None:
    config = weights.read_config(runs / "packed" / way / "dit" / "weights")
    assert config["dit"]["class"] == "minisora.dit.DiT"


@EVERY_WAY
def test_samples_are_written_by_the_first_rank(runs: Path, way: str) -> None:
    samples = (runs / "packed" / way / "dit" / "samples").iterdir()
    assert sorted(path.name for path in samples) == ["step-000004.mp4", "step-000004.txt"]


# Going on with another number of processes


def test_two_processes_that_share_clips_go_on_from_one(runs: Path) -> None:
    ours, expected = (losses(runs / "packed" / run) for run in ("resumed-context", "one"))
    assert torch.allclose(ours, expected, rtol=0, atol=1e-5)


def test_one_process_goes_on_from_the_shards_of_two(runs: Path) -> None:
    ours, expected = (losses(runs / "packed" / run) for run in ("resumed-both", "both"))
    assert torch.allclose(ours, expected, rtol=0, atol=1e-5)


def test_the_average_goes_on_too(runs: Path) -> None:
    ours, expected = (checkpoint(runs / "packed" / run) for run in ("resumed-context", "one"))
    assert difference(ours["state_dict"], expected["state_dict"]) < 1e-3


def test_another_number_of_ranks_is_said_once_with_the_clips_of_a_step(runs: Path) -> None:
    printed = (runs / "printed.txt").read_text()
    message = "the run so far had 1 x 16 clips a step and goes on with 2 x 16"
    assert printed.count(message) == 1  # not by the run whose processes share their clips


# As users start it


def test_fit_starts_its_own_processes(root: Path, tmp_path: Path) -> None:
    short = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    given = [f"--data.view.vae={root}/vae", *COMMON, *short]
    command = [sys.executable, "-m", "minisora.cli", *training(tmp_path, "run", "ddp", *given)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    found = {path.name for path in (tmp_path / "run").rglob("*")}
    assert {"config.yaml", "metrics.csv", "provenance.json", "step-000002.mp4"} <= found
    assert not [name for name in found if name.endswith(".lock")]


# Refusals


def test_uneven_groups_are_refused() -> None:
    strategy = Sharded(context=3)
    strategy.parallel_devices = [torch.device("cpu")] * 2
    with pytest.raises(InputError, match="2 processes do not form groups of 3"):
        strategy.setup_environment()


def test_only_the_transformer_is_sharded() -> None:
    module = VAETraining(VAE(channels=4, space=8, width=16, depth=1))
    module._trainer = SimpleNamespace(strategy=Sharded())  # type: ignore[assignment]
    with pytest.raises(InputError, match="only the transformer is trained in shards"):
        module.configure_model()


# Who works on what


def test_processes_that_share_clips_have_one_rank() -> None:
    strategy = SimpleNamespace(sharing=2)
    trainers = [SimpleNamespace(global_rank=i, world_size=4, strategy=strategy) for i in range(4)]
    assert [ranks_of(trainer).rank for trainer in trainers] == [0, 0, 1, 1]
    assert ranks_of(trainers[0]).count == 2


def contexts(size: int) -> list[Context]:
    found = [Context() for _ in range(size)]
    for rank, context in enumerate(found):
        context.size, context.rank = size, rank
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_each_token_has_one_process(size: int) -> None:
    counts = [1, 7, 80]
    shares = [context.share(counts) for context in contexts(size)]
    for clip, count in enumerate(counts):
        tokens = [i for own in shares for i in range(count)[own[clip]]]
        assert tokens == list(range(count))


def test_shares_differ_by_one_token_at_most() -> None:
    shares = [context.share([80]) for context in contexts(7)]
    sizes = [len(range(80)[own[0]]) for own in shares]
    assert max(sizes) - min(sizes) == 1


def test_the_losses_of_parts_add_up_to_that_of_the_clip() -> None:
    prediction, x_0, eps = torch.randn(3, 2, 9, 4).unbind()
    known = torch.rand(2, 9) < 0.5
    parts = [
        flow_loss(
            *(x[:, own] for x in (prediction, x_0, eps)), "v", known[:, own], (~known).sum(1)
        )
        for own in (slice(4), slice(4, 9))
    ]
    assert torch.allclose(sum(parts), flow_loss(prediction, x_0, eps, "v", known))


# Activation checkpointing


def small(checkpointing: bool) -> DiTTraining:
    torch.manual_seed(0)
    text = TextEncoder(["a", "circle"], width=32, depth=1)
    dit = DiT("tiny", channels=4, patch=(1, 1, 1), text_width=32)
    module = DiTTraining(text, dit, checkpointing=checkpointing)
    shake(module)
    return module.train()


def batch(kind: str) -> dict:
    latents = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return {
        "step": 0,
        "latents": list(latents) if kind == "packed" else latents,
        "captions": ["a circle", "a circle"],
        "modes": ["text", "animate"],
        "start": torch.zeros(2),
    }


@EVERY_KIND
def test_checkpointing_changes_neither_losses_nor_gradients(kind: str) -> None:
    found = []
    for checkpointing in (False, True):
        module = small(checkpointing)
        loss = module.clip_losses(batch(kind)).mean()
        loss.backward()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        found.append(torch.cat([loss.detach()[None], *(g.flatten() for g in gradients)]))
    assert torch.equal(*found)


def saved_for_backward(module: DiTTraining) -> int:
    """Numbers that the forward pass keeps for the backward pass."""
    counts = []

    def pack(x: Tensor) -> Tensor:
        counts.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        module.clip_losses(batch("buckets"))
    return sum(counts)


def test_checkpointing_keeps_less_for_the_backward_pass() -> None:
    assert saved_for_backward(small(True)) < 0.5 * saved_for_backward(small(False))


def test_packed_rows_are_not_compiled() -> None:
    module = small(False)
    module.compiled = True
    with pytest.raises(InputError, match="would be compiled anew"):
        module.check(SimpleNamespace(view=SimpleNamespace(packed=True)))
