"""Solutions to the exercises of notebook 07."""

from itertools import pairwise

# Exercise 1. Heun calls the network twice in each step but the last; guidance doubles every call;
# there are four clips.
bill = (2 * 10 - 1) * 2 * 4


# Exercise 2. Predict the clip, then mix clip and noise with less noise. Euler's step does the same
# from x / (sqrt(a) + sqrt(1 - a)) at t = sqrt(1 - a) / (sqrt(a) + sqrt(1 - a)): the two differ in a
# scale factor only, so at the same noise levels they give the same clip.
def ddim(x, eps, a, a_next):
    clean = (x - (1 - a).sqrt() * eps) / a.sqrt()
    return a_next.sqrt() * clean + (1 - a_next).sqrt() * eps


# Exercise 3. It never needs the velocity at t = 0: the middle of the last step is above it.
def midpoint(velocity, x, levels):
    for t, t_next in pairwise(levels):
        middle = (t + t_next) / 2
        half = x + (middle - t) * velocity(x, t.expand(len(x)))
        x = x + (t_next - t) * velocity(half, middle.expand(len(x)))
        yield x


# Two wrong ones, which the checker of exercise 3 names.
def midpoint_with_old_level(velocity, x, levels):
    for t, t_next in pairwise(levels):
        half = x + (t_next - t) / 2 * velocity(x, t.expand(len(x)))
        x = x + (t_next - t) * velocity(half, t.expand(len(x)))
        yield x


def midpoint_from_middle(velocity, x, levels):
    for t, t_next in pairwise(levels):
        middle = (t + t_next) / 2
        half = x + (middle - t) * velocity(x, t.expand(len(x)))
        x = half + (t_next - t) * velocity(half, middle.expand(len(x)))
        yield x


# Exercise 4. Precisions (one over the variance) add with their factors, and so do mean times
# precision. At g = 4 the mean is beyond the mean of what fits the prompt, on the side away from
# everything else, and the standard deviation is smaller: exaggerated, and all alike.
def bell(g):
    precision = (1 - g) / 1.0**2 + g / 0.5**2
    return g * 1.0 / 0.5**2 / precision, precision**-0.5
