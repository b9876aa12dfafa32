"""Tensors of which every process holds a part: PyTorch's DTensors, as FSDP makes them. Plain tensors
pass through unchanged, so that the same code serves one process."""

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn


def whole(x: Any) -> Tensor:
    """The full tensor on every process. All have to call this, in the same order."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def local(x: Any) -> Tensor:
    """This process's part, in the same memory."""
    return x.to_local() if hasattr(x, "to_local") else x


def cut_like(x: Tensor, model: Any) -> Tensor:
    """The full tensor x, the same on every process, cut as `model` is. Nothing is sent."""
    if not hasattr(model, "placements"):
        return x
    from torch.distributed.tensor import distribute_tensor  # slow to import

    x = x.to(model.device)
    return distribute_tensor(x, model.device_mesh, model.placements, src_data_rank=None)


def plain_class(network: nn.Module) -> type[nn.Module]:
    """The class of a network, also of one in shards, which FSDP gives a class of its own."""
    kinds = type(network).__mro__
    return next(kind for kind in kinds if not kind.__module__.startswith("torch.distributed"))


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return not dist.is_available() or not dist.is_initialized() or dist.get_rank() == 0
