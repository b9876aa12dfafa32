"""Solutions to the exercises of notebook 02."""

import torch


# Exercise 1. The first frame is a group, and every four frames after it are one more. A minute of
# 32 x 32 pixels is 1,477,632 numbers and its code 61,952: almost 24 times fewer, as a patch has 192
# numbers and its code 8. Only the first frame costs more, since it is repeated to fill its group.
def code_size(frames, height, width, space=4, channels=8):
    groups = 1 + (frames - 1) // 4
    return channels * groups * (height // space) * (width // space)


# Exercise 2. lost[c] is what c channels lose, and it falls with c: count how often it is still too
# much. With a steep spectrum, as that of real clips, few channels go a long way; with a flat one,
# PCA must keep nearly all of them.
def channels_for(variances, decibels):
    error = 4 * 10 ** (-decibels / 10)
    lost = torch.cat([variances.flip(0).cumsum(0).flip(0), variances.new_zeros(1)])
    return int((lost / len(variances) > error).sum())


# Exercise 3. With a group-local encoder each group becomes its latent without waiting for any
# other: this is `VAE.encode_stream`.
def groups_of(frames):
    group = []
    for number, frame in enumerate(frames):
        group.append(frame)
        if number == 0 or len(group) == 4:
            yield torch.stack(group * 4 if number == 0 else group, dim=2)
            group = []
