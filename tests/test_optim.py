import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from conftest import shake
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from minisora.dit import DiT
from minisora.optim import NEWTON_SCHULZ, MuonAdam, orthogonalize, split_parameters

SHAPES = {"wide": (3, 20, 50), "tall": (2, 50, 20)}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def matrices(request) -> torch.Tensor:
    return torch.randn(request.param, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("in_bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_singular_values_come_close_to_one(matrices, in_bfloat16: bool) -> None:
    values = torch.linalg.svdvals(orthogonalize(matrices, in_bfloat16=in_bfloat16))
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize("in_bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_the_result_points_to_the_nearest_orthogonal_matrix(matrices, in_bfloat16: bool) -> None:
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    ours, exact = orthogonalize(matrices, in_bfloat16=in_bfloat16).flatten(1), (u @ v).flatten(1)
    assert torch.nn.functional.cosine_similarity(ours, exact).min() > 0.98


@pytest.fixture
def ill_conditioned() -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices whose singular values span six orders of magnitude, as those of gradients do, and
    five Newton-Schulz steps on them in double precision."""
    draws = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(2, n, 64, generator=draws))[0] for n in (96, 64))
    matrices = u * torch.logspace(0, -6, 64) @ v.mT
    exact = matrices.double() / matrices.norm(dim=(1, 2), keepdim=True)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = exact @ exact.mT
        exact = a * exact + (b * gram + c * gram @ gram) @ exact
    return matrices, exact


def test_float32_is_precise_enough(ill_conditioned) -> None:
    matrices, exact = ill_conditioned
    assert (orthogonalize(matrices) - exact).abs().max() < 1e-3


def test_bfloat16_matrices_stay_bounded(ill_conditioned) -> None:
    matrices, _ = ill_conditioned
    assert (orthogonalize(matrices.bfloat16()).float().norm(dim=(1, 2)) < 9).all()


def test_bfloat16_steps_lose_only_the_weakest_directions(ill_conditioned) -> None:
    matrices, exact = ill_conditioned
    error = orthogonalize(matrices, in_bfloat16=True) - exact
    assert (error.norm(dim=(1, 2)) < 0.2 * exact.norm(dim=(1, 2))).all()


def test_the_adam_group_equals_pytorchs_adam() -> None:
    start = torch.randn(4, 3)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    a = MuonAdam([], [ours], adam_lr=0.01)
    b = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99))
    for _ in range(20):
        for p, optimizer in ((ours, a), (theirs, b)):
            p.grad = (p.detach() - 1) ** 3
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_every_parameter_is_in_one_group() -> None:
    dit = DiT("tiny")
    matrices, others = split_parameters(dit, dit.blocks)
    assert {id(p) for p in matrices} | {id(p) for p in others} == {id(p) for p in dit.parameters()}
    assert len(matrices) + len(others) == len(list(dit.parameters()))


def test_muon_gets_the_matrices_of_the_blocks() -> None:
    dit = DiT("tiny")
    matrices, _ = split_parameters(dit, dit.blocks)
    assert all(p.ndim == 2 for p in matrices)
    assert len(matrices) == 2 * 6


def test_muon_moves_every_direction_alike() -> None:
    """On an ill-conditioned quadratic, whose steepest direction holds gradient descent back."""
    scales = torch.logspace(0, -2, 16)
    weight = torch.nn.Parameter(torch.randn(16, 16))
    start = (weight * scales).square().sum()
    optimizer = MuonAdam([weight], [], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (weight * scales).square().sum().backward()
        optimizer.step()
    assert (weight * scales).square().sum() < 0.05 * start


def test_the_state_survives_saving() -> None:
    """An optimizer with the saved state makes the same second step, bit for bit."""
    dit = shake(DiT("tiny"))
    for p in dit.parameters():
        p.grad = torch.ones_like(p)
    optimizer = MuonAdam(*split_parameters(dit, dit.blocks))
    optimizer.step()
    state, middle = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(dit.state_dict())
    optimizer.step()
    expected = copy.deepcopy(dit.state_dict())
    dit.load_state_dict(middle)
    restored = MuonAdam(*split_parameters(dit, dit.blocks))
    restored.load_state_dict(state)
    restored.step()
    assert all(torch.equal(p, expected[name]) for name, p in dit.state_dict().items())


# Shards


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """A group of one process. (test_parallel.py has groups of two.)"""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_shards_step_like_whole_tensors(mesh: DeviceMesh) -> None:
    starts = [torch.randn(6, 4), torch.randn(8, 2, 3), torch.randn(5)]
    plain = [torch.nn.Parameter(start.clone()) for start in starts]
    cut = [torch.nn.Parameter(distribute_tensor(start, mesh, [Shard(0)])) for start in starts]
    for parameters in (plain, cut):
        optimizer = MuonAdam(parameters[:2], parameters[2:])
        for _ in range(3):
            for p in parameters:
                p.grad = (p.detach() - 1) ** 3
            optimizer.step()
    assert all(torch.equal(a, b.full_tensor()) for a, b in zip(plain, cut, strict=True))
    assert not any(torch.equal(a, start) for a, start in zip(plain, starts, strict=True))
