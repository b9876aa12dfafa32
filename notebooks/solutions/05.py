"""Solutions to the exercises of notebook 05."""

import torch

from minisora.dit import DiT
from minisora.patches import positions


# Exercise 1. The query at t meets the key at t - back where k e^{iw(t - back)} = q e^{iwt}, so
# k = q e^{iw back}: the key is the query, rotated ahead. Both are equally long, so no other angle
# scores higher.
def key_for(query, frequencies, back):
    pairs = torch.view_as_complex(query.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.exp(1j * back * frequencies[0])).flatten(-2)


# Exercise 2. 12 D^2 = 2 N D: the matrices on one side, N dot products and a mean of N vectors on the
# other. Our 80 tokens are far below 6 * 192 = 1152; a long video in high resolution is far above.
def break_even(width):
    return 6 * width


# Exercise 3. First the head: no gradient passes through its zeros, but its own input is not zero.
# Then all that reaches the head without a closed gate: the input layers, along the residual stream,
# and the gates, since what they multiply is not zero. Attention and MLP, behind closed gates, and
# time, behind zero matrices, follow in the third step. Zero times random can start; zero times
# zero never could, so only one layer of each branch starts at zero.
def parts_with_gradient(step):
    """The parts of a small fresh model that get a gradient in step number `step`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dit = DiT("tiny", pooled=False)
        x, target, text = *torch.randn(2, 2, 20, 32), torch.randn(2, 16, 128)
    optimizer = torch.optim.SGD(dit.parameters(), lr=0.1)
    for _ in range(step):
        optimizer.zero_grad()
        prediction = dit(x, torch.tensor([0.2, 0.7]), text, positions((5, 2, 2)))
        (prediction - target).square().mean().backward()
        optimizer.step()
    names = [name.split(".") for name, p in dit.named_parameters() if p.grad.any()]
    inside = {"attention": "attention", "mlp": "mlp", "modulation": "block modulation"}
    return {inside[name[2]] if name[0] == "blocks" else name[0] for name in names}


reached = [parts_with_gradient(1), parts_with_gradient(2)]


# Exercise 4. A latent frame is h * w tokens. A mask of this kind is the only difference between
# generating a clip, animating a picture and extending a clip.
def levels_of(t, grid, known):
    return torch.where(positions(grid)[:, 0] < known, 0.0, t[:, None])
