import copy

import pytest
import torch
from conftest import shake

from minisora.dit import DiT
from minisora.optim import NEWTON_SCHULZ, MuonAdam, orthogonalize, split_parameters


@pytest.mark.parametrize("in_bfloat16", [False, True])
def test_orthogonalize_makes_singular_values_one_or_so(in_bfloat16: bool) -> None:
    for shape in ((3, 20, 50), (2, 50, 20)):
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
        values = torch.linalg.svdvals(orthogonalize(matrices, in_bfloat16=in_bfloat16))
        assert values.min() > 0.6 and values.max() < 1.3
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        assert (
            torch.nn.functional.cosine_similarity(
                orthogonalize(matrices, in_bfloat16=in_bfloat16).flatten(1), (u @ v).flatten(1)
            ).min()
            > 0.98
        )


def test_orthogonalize_does_without_double_precision() -> None:
    """Also of matrices whose directions differ a million times in strength, which gradients are.
    In bfloat16 the weakest of them drown."""
    draws = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(2, n, 64, generator=draws))[0] for n in (96, 64))
    matrices = u * torch.logspace(0, -6, 64) @ v.mT
    exact = matrices.double() / matrices.norm(dim=(1, 2), keepdim=True)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = exact @ exact.mT
        exact = a * exact + (b * gram + c * gram @ gram) @ exact
    assert (orthogonalize(matrices) - exact).abs().max() < 1e-3
    assert (orthogonalize(matrices.bfloat16()).float().norm(dim=(1, 2)) < 9).all()
    off = orthogonalize(matrices, in_bfloat16=True) - exact
    assert (off.norm(dim=(1, 2)) < 0.2 * exact.norm(dim=(1, 2))).all()


def test_adam_group_is_adam() -> None:
    torch.manual_seed(0)
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
    assert all(p.ndim == 2 for p in matrices) and len(matrices) == 2 * 6


def test_muon_moves_every_direction_alike() -> None:
    """A badly scaled quadratic, where gradient descent is held back by its steepest direction."""
    torch.manual_seed(0)
    scales = torch.logspace(0, -2, 16)
    weight = torch.nn.Parameter(torch.randn(16, 16))
    start = (weight * scales).square().sum()
    optimizer = MuonAdam([weight], [], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (weight * scales).square().sum().backward()
        optimizer.step()
    assert (weight * scales).square().sum() < 0.05 * start


def test_state_survives_saving() -> None:
    dit = shake(DiT("tiny"))
    optimizer = MuonAdam(*split_parameters(dit, dit.blocks))
    for p in dit.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    again = MuonAdam(*split_parameters(dit, dit.blocks))
    again.load_state_dict(state)
    before = [p.detach().clone() for p in dit.parameters()]
    optimizer.step()
    after = [p.detach().clone() for p in dit.parameters()]
    with torch.no_grad():
        for p, b in zip(dit.parameters(), before, strict=True):
            p.copy_(b)
    again.step()
    assert all(torch.equal(p, a) for p, a in zip(dit.parameters(), after, strict=True))
