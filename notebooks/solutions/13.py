"""Solutions to the exercises of notebook 13."""

from itertools import pairwise


# Exercise 1. Both tensors are (channels, groups, height / space, width / space), of two bytes a
# number.
def store_bytes(frames, height, width, channels, space):
    groups = 1 + (frames - 1) // 4
    return 2 * 2 * channels * groups * (height // space) * (width // space)


# Exercise 2. As few clips as possible, so the length by the longest, rounded up.
def clip_lengths(length, longest):
    count = -(-length // longest)
    parts = [(p + 1) * length // count - p * length // count for p in range(count)]
    return [part - (part - 1) % 4 for part in parts]


# Exercise 3. A hold is what lies between one anchor and the next; the end of the film closes the
# last one.
def holds(moved, least):
    anchors = [0, *(k for k, each in enumerate(moved) if each and k), len(moved)]
    return [(start, end) for start, end in pairwise(anchors) if end - start >= least]
