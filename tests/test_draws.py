"""Random numbers by name: equal keys give equal numbers, different keys different ones."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from minisora import draws
from minisora.draws import Ranks

BY_INDEX = ["shapes", "pairs", "mixture", "prompt", "caption choice", "human caption"]
BY_STEP = ["training", "length", "validation"]
# (seed, index) or (seed, step, rank) that differ in one number each, and in their order
INDEX_KEYS = [(0, 0), (0, 1), (1, 0), (1, 2), (2, 1)]
STEP_KEYS = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]


def by_index(name: str, *key: int) -> tuple[float, ...]:
    return tuple(draws.rng(name, *key).random(4))


def by_step(name: str, *key: int) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=draws.generator(name, *key)).tolist())


@pytest.mark.parametrize("name", [*BY_INDEX, "a new world"])
def test_the_same_index_gives_the_same_numbers(name: str) -> None:
    assert by_index(name, 3, 5) == by_index(name, 3, 5)


@pytest.mark.parametrize("name", [*BY_STEP, "a new draw"])
def test_the_same_step_gives_the_same_numbers(name: str) -> None:
    assert by_step(name, 3, 5, 1) == by_step(name, 3, 5, 1)


def test_names_and_indices_never_share_their_numbers() -> None:
    names = [*BY_INDEX, "a new world", "another new world"]
    drawn = {by_index(name, *key) for name, key in itertools.product(names, INDEX_KEYS)}
    assert len(drawn) == len(names) * len(INDEX_KEYS)


def test_names_steps_and_ranks_never_share_their_numbers() -> None:
    names = [*BY_STEP, "a new draw", "another new draw"]
    drawn = {by_step(name, *key) for name, key in itertools.product(names, STEP_KEYS)}
    assert len(drawn) == len(names) * len(STEP_KEYS)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("shapes", 0),
        ("pairs", 2),
        ("mixture", 3),
        ("prompt", 4),
        ("caption choice", 5),
        ("human caption", 6),
    ],
)
def test_the_numbers_of_a_clip_are_numpys(name: str, number: int) -> None:
    """Shipped weights were trained on these clips, so the numbers must not change."""
    expected = np.random.default_rng((7, 11, number)).random(4)
    assert np.array_equal(draws.rng(name, 7, 11).random(4), expected)


@pytest.mark.parametrize("seed", [0, 1_000_003, 2**63 - 1])
def test_the_stream_of_shapes_is_the_one_without_a_number(seed: int) -> None:
    expected = np.random.default_rng((seed, 11)).random(4)
    assert np.array_equal(draws.rng("shapes", seed, 11).random(4), expected)


@pytest.mark.parametrize(("name", "number"), [("training", 0), ("length", 1), ("validation", 2)])
def test_the_numbers_of_a_training_step_are_seeded_by_numpy(name: str, number: int) -> None:
    state = np.random.SeedSequence((7, 11, 3, number)).generate_state(1, np.uint64)[0]
    expected = torch.Generator().manual_seed(int(state))
    drawn = torch.rand(4, generator=draws.generator(name, 7, 11, 3))
    assert torch.equal(drawn, torch.rand(4, generator=expected))


def test_the_number_of_an_unknown_name_is_the_same_in_every_process() -> None:
    code = "from minisora import draws; print(draws.stream_number('a new world'))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert int(result.stdout) == draws.stream_number("a new world")


def test_an_unknown_name_has_a_number_of_its_own() -> None:
    assert draws.stream_number("a new world") not in draws.NUMBERS.values()


def test_the_rank_is_0_unless_given() -> None:
    assert by_step("training", 1, 2) == by_step("training", 1, 2, 0)


# Ranks


def test_one_process_works_on_all_samples() -> None:
    assert Ranks.of(0, 1) == Ranks(rank=0, count=1) == Ranks()


def test_each_process_has_its_own_rank() -> None:
    assert [Ranks.of(process, 4).rank for process in range(4)] == [0, 1, 2, 3]
    assert Ranks.of(0, 4).count == 4


def test_processes_that_share_a_sample_have_one_rank() -> None:
    assert [Ranks.of(process, 4, sharing=2).rank for process in range(4)] == [0, 0, 1, 1]
    assert Ranks.of(0, 4, sharing=2).count == 2


def test_uneven_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="6 processes do not form groups of 4"):
        Ranks.of(0, 6, sharing=4)
