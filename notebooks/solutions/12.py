"""Solutions to the exercises of notebook 12."""

import math

from minisora import world
from minisora.world import shapes


# Exercise 1. All captions that fit are equally likely, so the floor is the logarithm of their
# number. "Red circle moving left" leaves 8 captions of 11 words with END: log 8 / 11 is 0.19 a word.
def least_loss(short):
    named = world.parse(short)
    colors = [named["color"]] if named["color"] else list(shapes.COLORS)
    colors = [c for c in colors if shapes.in_split(named["shape"], c, named["motion"], "train")]
    count = len(colors)
    if named["size"] is None and named["motion"] not in shapes.FIRST_SIZE:
        count *= len(shapes.SIZES)
    if named["background"] is None:
        count *= len(shapes.BACKGROUNDS)
    return math.log(count)


# Exercise 2. softmax(log p / t) is p to the power 1 / t, divided by its sum.
def at_temperature(probabilities, temperature):
    powers = probabilities ** (1 / temperature)
    return powers / powers.sum()


# Exercise 3. A prompt fails if all its draws do; all prompts get a caption if none fails.
def gives_up(kept, tries, prompts):
    return 1 - (1 - (1 - kept) ** tries) ** prompts


# Exercise 4. All attributes have to be right, each with a chance of 1/2. An odd number cannot be
# split evenly, so one order always fits better, and in half of the clips it is the right one.
def shares_of_a_bag(attributes):
    return 0.5**attributes, 0.5
