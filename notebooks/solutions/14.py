"""Solutions to the exercises of notebook 14."""

import math


# Exercise 1. 2 (ranks - 1) steps, in each a chunk: a rank's part of 4 bytes for each parameter. For
# many ranks this comes near 8 bytes a parameter and grows no more.
def bytes_sent(parameters, ranks):
    return 2 * (ranks - 1) * 4 * parameters / ranks


# Exercise 2. 24 w^2 N = 4 N^2 w, so N = 6 w: 6,912 tokens for DiT-XL. The text moves it a little.
def crossover(width):
    return 6 * width


# Exercise 3. 20 bytes for each parameter: 4 of parameters, 4 of gradients, 8 of Adam and 4 of the
# average. The activations stay, however many devices there are.
def devices_needed(parameters, activations, memory):
    return math.ceil(20 * parameters / 1e9 / (memory - activations))
