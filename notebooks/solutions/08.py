"""Solutions to the exercises of notebook 08."""

from minisora.metrics import wilson


# Exercise 1. The number grows with one over the square of the difference. If both models get the
# same prompts and the same noise, fewer will do: count only the prompts on which they differ.
def needed(a, b):
    n = 20
    while wilson(round(a * n), n)[1] >= wilson(round(b * n), n)[0]:
        n += 20
    return n


# Two wrong ones, which the checker of exercise 1 names.
def needed_only_b(a, b):
    n = 20
    while a >= wilson(round(b * n), n)[0]:
        n += 20
    return n


def needed_only_a(a, b):
    n = 20
    while wilson(round(a * n), n)[1] >= b:
        n += 20
    return n


# Exercise 2. Both are the same shape: the sum of the squared probabilities. Compute or measure
# chance; never assume one over the number of classes.
chance = 3 * (2 / 8) ** 2 + 2 * (1 / 8) ** 2


# Exercise 3. Average the heads before comparing words: the largest mean, not the mean of largest.
def winner(weights, words):
    return weights.mean(0)[:, words].argmax(-1)
