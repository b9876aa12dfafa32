"""Variants of the networks, for experiments. Configs and flags name them by their class path;
nothing imports them."""
