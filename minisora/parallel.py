"""Training on several processes, outside of the networks: parameters in shards (FSDP2), and clips
whose tokens several processes share (context parallelism). Plain copies are Lightning's "ddp".

Gradients are averaged over all processes. So the loss of a process is its part of the loss of the
step, times the number of processes, and all three ways train like one process.
"""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy, StrategyRegistry
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from minisora.attention import Attention, Lengths
from minisora.draws import Ranks
from minisora.errors import InputError, check_counts
from minisora.shards import cut_like, is_first, whole


def ranks_of(trainer: L.Trainer | None) -> Ranks:
    """Which samples this process works on."""
    if trainer is None:
        return Ranks()
    sharing = getattr(getattr(trainer, "strategy", None), "sharing", 1)
    return Ranks.of(trainer.global_rank, trainer.world_size, sharing)


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradients; x itself if there is one."""
    if not (dist.is_available() and dist.is_initialized()):
        return x.detach()
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


class AllGather(torch.autograd.Function):
    """The tensors x of all R processes of a group, (R, *x.shape). All use each of them, so its
    gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        parts = x.new_empty(group.size(), *x.shape)  # (R, ...)
        dist.all_gather(list(parts.unbind()), x.contiguous(), group)
        return parts

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        total = grad.contiguous()  # (R, ...)
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.group.rank()], None


class Context:
    """The processes that share the tokens of each clip. Each computes its own tokens, and attention
    sees the keys and values of all. Source: Li et al., "Sequence Parallelism" (2021).

    Without a group there is one process, which holds all tokens.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.size, self.rank = (group.size(), group.rank()) if group else (1, 0)
        self.counts: list[list[int]] = []  # for each process its tokens of each clip; []: whole

    def share(self, counts: list[int]) -> list[slice]:
        """This process's tokens of clips of `counts` tokens, as even as can be. Attention expects
        such clips from now on, until `whole`."""
        ends = [[n * i // self.size for i in range(self.size + 1)] for n in counts]
        self.counts = [[e[i + 1] - e[i] for e in ends] for i in range(self.size)]
        return [slice(e[self.rank], e[self.rank + 1]) for e in ends]

    def whole(self) -> None:
        """From now on each process has whole clips of its own, as in sampling."""
        self.counts = []

    def gather(self, k: Tensor, v: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor, Lengths]:
        """Keys and values of all processes' tokens, clip by clip, and the tokens of each clip.

        k, v: (B, heads, n, d), the tokens of this process. Returns (B, heads, N, d) each.
        """
        if not self.counts or self.group is None:
            return k, v, lengths
        both = torch.cat([k, v], dim=1)  # (B, 2 heads, n, d)
        most = max(map(sum, self.counts))  # sent at one size
        parts = AllGather.apply(F.pad(both, (0, 0, 0, most - both.shape[2])), self.group)
        pieces = [
            part[:, :, : sum(own)].split(own, dim=2)  # for each clip (B, 2 heads, n, d)
            for part, own in zip(parts, self.counts, strict=True)
        ]
        clips = zip(*pieces, strict=True)
        k, v = torch.cat([piece for clip in clips for piece in clip], dim=2).chunk(2, dim=1)
        return k, v, lengths and [sum(clip) for clip in zip(*self.counts, strict=True)]


class Sharded(ModelParallelStrategy):
    """Every process holds a part of each parameter, gradient, optimizer state and average, and has
    the parameters of a block only while it computes the block (FSDP2). `context` neighboring
    processes share the tokens of each clip. Source: Zhao et al., "PyTorch FSDP" (2023).

    A checkpoint is one file, the same as one process writes, and any number of processes can go on
    from it.
    """

    def __init__(self, context: int = 1, **options: Any) -> None:
        check_counts(1, 10**6, context=context)
        super().__init__(
            tensor_parallel_size=context, save_distributed_checkpoint=False, **options
        )
        self.sharing, self.context = context, Context()

    def setup_environment(self) -> None:
        processes = self.num_nodes * self.num_processes
        if processes % self.sharing:
            raise InputError(
                f"{processes} processes do not form groups of {self.sharing}: "
                "set trainer.strategy.context to a divisor"
            )
        self._data_parallel_size = processes // self.sharing
        super().setup_environment()
        if self.sharing > 1:
            self.context = Context(self.device_mesh["tensor_parallel"].get_group())

    def shard(self, *networks: Any) -> None:
        """Cuts networks with `blocks` into shards over all processes, those that share clips too."""
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for network in networks:
            if not isinstance(network, FSDPModule):
                for module in (*network.blocks, network):
                    fully_shard(module, mesh=mesh, reshard_after_forward=True)

    def share_tokens(self, network: nn.Module) -> Context:
        """Lets the network's attention see the tokens of all processes that share a clip."""
        for layer in network.modules():
            if isinstance(layer, Attention) and self.sharing > 1:
                layer.gather = self.context.gather
        return self.context

    # Checkpoints: whole tensors on the first process, under the names and numbers of one process

    lightning_restore_optimizer = True  # type: ignore[assignment]
    load_checkpoint = Strategy.load_checkpoint  # type: ignore[assignment]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return gathered(self.lightning_module.state_dict())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own, given = self.lightning_module.state_dict(), checkpoint["state_dict"]
        state = {name: cut_like(x, own[name]) if name in own else x for name, x in given.items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return gathered(optimizer.state_dict())

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            params = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                number: {name: cut_if_alike(x, params[number]) for name, x in values.items()}
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})


def cut_if_alike(x: Any, p: Tensor) -> Any:
    """An entry of the optimizer's state, cut like its parameter if it has one number for each."""
    return cut_like(x, p) if isinstance(x, Tensor) and x.shape == p.shape else x


def gathered(state: dict[str, Any]) -> dict[str, Any]:
    """A nested dict with whole tensors, on the CPU of the first process. The others, which have to
    call this too, get {}."""

    def collect(x: Tensor) -> Tensor | None:
        x = whole(x.detach())
        return x.cpu() if is_first() else None  # one at a time, so that no process holds all

    full = apply_to_collection(state, Tensor, collect)
    return full if is_first() else {}


StrategyRegistry.register("fsdp2", Sharded, "parameters in shards (FSDP2)", override=True)
