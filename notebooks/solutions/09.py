"""Solutions to the exercises of notebook 09."""

import math


# Exercise 1. A group costs its tokens whatever it holds: one frame the first, four the others.
def longest_clip(tokens, height, width):
    groups = tokens // (height // 8 * (width // 8))
    return 1 + 4 * (groups - 1)


# Exercise 2. If t = sigmoid(u), then t / (1 - t) = exp(u), and s exp(u) = exp(u + log s). The
# square root becomes a half. The package adds it in `DiTTraining.levels`.
def mean_for(mean, tokens, reference):
    return mean + 0.5 * math.log(tokens / reference)


# Exercise 3. Each clip of n tokens has a block of n x words and one of n x n. For many clips that is
# far less than the mask's sum(n) x (sum(n) + words x clips), so the package attends clip by clip.
def pairs_needed(lengths, words):
    return sum(n * (words + n) for n in lengths)
