"""Solutions to the exercises of notebook 00."""


# Exercise 1. 17 frames are 1 + 4 x 4; in space the VAE divides by 4 and the patch by 2. Attention
# costs the square of the total: this is why compressing matters.
def tokens_of(num_frames, height, width):
    t, h, w = 1 + (num_frames - 1) // 4, height // 8, width // 8
    return t, h, w, t * h * w


# Exercise 2. The derivative, -2 sum p (v - g), is zero at the mean. What is left is the variance.
def best_guess(values, chances):
    guess = chances @ values
    return guess, chances @ (values - guess) ** 2


# Exercise 3. They add up to 1. For s > 1 the empty prediction has a negative weight: guidance does
# not mix the two, it goes beyond the one with text, away from the one without.
def weights_of(scale):
    return scale, 1 - scale
