"""Solutions to the exercises of notebook 06."""

import numpy as np


# Exercise 1. E(eps - x)^2 = E eps^2 - 2 E eps E x + E x^2, since noise and clip are independent;
# E eps = 0 and E eps^2 = 1. For the circles this makes 3.1: the first losses in the CSV are close.
def first_loss(latents, target):
    square = latents.square().mean().item()
    return {"v": 1 + square, "x": square, "eps": 1.0}[target]


# Exercise 2. The weight moves on: the distance is d + 1. The mean follows: decay * (d + 1) is left.
# In the long run that is d again, so d = decay / (1 - decay): 49 steps at 0.98. An average is
# always late, which does no harm at the end of a run, when nothing moves any more.
def behind(decay):
    return decay / (1 - decay)


# Exercise 3. The order of an epoch is computed again for every clip; the package computes it once for
# each epoch in the batch. With several machines, (step * ranks + rank) * batch is the first entry.
def batch_of(size, batch, seed, step):
    chosen = []
    for p in range(step * batch, (step + 1) * batch):
        order = np.random.default_rng((seed, p // size)).permutation(size)
        chosen.append(order[p % size])
    return chosen
