"""Solutions to the exercises of notebook 04."""

import math

from minisora import flow


# Exercise 1. x_t - t v = (1 - t) x_0 + t eps - t (eps - x_0) = x_0. And x_t + (1 - t) v is the noise.
def clean(x_t, v, t):
    return x_t - flow.broadcast_levels(t, x_t) * v


# Exercise 2. Noise over data is t / (1 - t) here and the ratio r of the roots there. From
# t / (1 - t) = r follows t = r / (1 + r). The r is EDM's sigma.
def level_of(alpha_bar):
    ratio = ((1 - alpha_bar) / alpha_bar).sqrt()
    return ratio / (1 + ratio)


# Exercise 3. ln(t / (1 - t)) = ln(sigma / scale) = ln sigma - ln scale: the mean moves, the spread
# stays. For EDM's numbers the mean is -0.51; our video model trains at 2.5 down to 0.8.
def our_levels(mean, deviation, scale):
    return mean - math.log(scale), deviation
