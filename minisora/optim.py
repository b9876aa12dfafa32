"""Muon and Adam in one optimizer: Muon updates the matrices of the blocks, Adam all the rest.

Source: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from minisora.shards import cut_like, local, whole

# Coefficients of the quintic polynomial. It is steep at 0, so that small singular values grow
# fast; they end in [0.7, 1.2] rather than at 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, steps: int = 5, in_bfloat16: bool = False) -> Tensor:
    """Approximates the nearest semi-orthogonal matrices: all singular values come close to 1.

    (K, rows, columns) -> the same. One Newton-Schulz step is X <- (a + b G + c G^2) X with
    G = X X^T. In float32 the factors, polynomials of the first G, are multiplied with each other
    first and with X once. In bfloat16 their product would lose its small singular values.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).float()  # (K, m, n), m <= n: G is the smaller
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # singular values in [0, 1]
    if in_bfloat16:
        x = x.bfloat16()
        for _ in range(steps):
            gram = x @ x.mT  # (K, m, m)
            factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b G + c G^2, rounded once
            x = torch.baddbmm(x, factor, x, beta=a)  # (K, m, n)
    else:
        gram = x @ x.mT  # (K, m, m)
        identity = torch.eye(gram.shape[-1], device=x.device)  # (m, m)
        product = identity.expand_as(gram)  # (K, m, m), all factors so far
        for _ in range(steps):
            factor = a * identity + b * gram + c * gram @ gram
            # the next G without X: (F X)(F X)^T = F G F, since F is symmetric
            product, gram = factor @ product, factor @ gram @ factor
        x = product @ x  # (K, m, n)
    x = x.to(matrices.dtype)
    return x.mT if tall else x


class MuonAdam(torch.optim.Optimizer):
    """`matrices` move along their orthogonalized momentum, `others` follow Adam at rate `adam_lr`.

    The rate of a matrix is `lr` * sqrt(max(1, rows / columns)). Convolution kernels count as
    matrices (out, in * size). `in_bfloat16` is passed to `orthogonalize`.

    Of a matrix that is sharded over processes, the whole update is gathered and orthogonalized on
    each of them, and each keeps its part: exactly what one process does.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float = 0.02,
        adam_lr: float = 2e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        in_bfloat16: bool = False,
    ) -> None:
        self.in_bfloat16 = in_bfloat16
        groups = [
            {"params": list(matrices), "kind": "muon", "lr": lr},
            {"params": list(others), "kind": "adam", "lr": adam_lr},
        ]
        defaults = {"momentum": momentum, "betas": betas}
        # PyTorch refuses groups without parameters
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            live = [(p, p.grad) for p in group["params"] if p.grad is not None]
            (self._muon if group["kind"] == "muon" else self._adam)(group, live)
        return loss

    def _muon(self, group: dict, live: list[tuple[nn.Parameter, Tensor]]) -> None:
        same_shape = defaultdict(list)
        for p, grad in live:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(grad, 1 - group["momentum"])
            nesterov = grad.lerp(state["momentum"], group["momentum"])
            same_shape[(p.shape[0], math.prod(p.shape[1:]))].append((p, nesterov))
        # matrices of one shape in one batch: a few large products instead of many small ones
        for (rows, columns), pairs in same_shape.items():
            # whole matrices of one shape at a time: all of them would fill the memory
            stack = torch.stack([whole(update).reshape(rows, columns) for _, update in pairs])
            updates = orthogonalize(stack, in_bfloat16=self.in_bfloat16)  # (K, rows, columns)
            # tall matrices get larger steps, so that outputs change as much as those of others
            rate = group["lr"] * max(1.0, rows / columns) ** 0.5
            for (p, _), update in zip(pairs, updates, strict=True):
                own = cut_like(update.reshape(p.shape), p)
                local(p).add_(local(own), alpha=-rate)

    def _adam(self, group: dict, live: list[tuple[nn.Parameter, Tensor]]) -> None:
        beta1, beta2 = group["betas"]
        for p, grad in live:
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] += 1
            # element by element, so each process steps its own part
            own, mean, square = local(grad), local(state["mean"]), local(state["square"])
            mean.lerp_(own, 1 - beta1)
            square.lerp_(own.square(), 1 - beta2)
            # both averages start at zero; the divisions remove that bias
            mean = mean / (1 - beta1 ** state["step"])
            square = square / (1 - beta2 ** state["step"])
            local(p).addcdiv_(mean, square.sqrt() + 1e-8, value=-group["lr"])


def split_parameters(
    model: nn.Module, blocks: Iterable[nn.Module]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices and kernels inside `blocks`, and all other trained parameters of `model`."""
    inside = {id(p) for block in blocks for p in block.parameters() if p.ndim >= 2}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [p for p in trained if id(p) in inside], [p for p in trained if id(p) not in inside]
