"""Solutions to the exercises of notebook 11."""

import math

import torch


# Exercise 1. Of the `times` equal captions one stays, the clip's own, so size - times + 1 candidates
# are left, all of the same probability. Rows and columns give the same, and so does their mean.
def first_contrast(size, times):
    return math.log(size - times + 1)


# Exercise 2. With 2 or 3 frames it sees the object only on the floor, and no training can help: the
# two motions look the same. This is aliasing, which makes wheels stand still in movies.
def sees_the_bounce(count):
    frames = torch.linspace(0, 16, count).round()
    return bool((frames % 8 != 0).any())


# Exercise 3. Each block keeps keys and values, so 2 * width numbers for each token it attends to:
# the words, and in a multimodal block the pooled tokens as well.
def cache_numbers(words, depth, queries, width):
    return 2 * width * depth * (words + words + queries)
