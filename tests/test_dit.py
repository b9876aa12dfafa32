import json

import pytest
import torch
from conftest import shake

from minisora import InputError
from minisora.attention import rotation_factors
from minisora.dit import SIZES, DiT, dimensions
from minisora.patches import positions

CONFIG = {"size": "tiny", "channels": 4, "patch": (1, 2, 2), "text_width": 24}
OWNER = torch.arange(3)[:, None]  # the tokens of each of three clips are its own


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """Three clips of 2 x 2 x 3 tokens, each with a noise level."""
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(3, 12, 16, generator=generator),
        "t": torch.tensor([0.2, 0.5, 0.9]),
        "text": torch.randn(3, 5, 24, generator=generator),
        "positions": positions((2, 2, 3)),
    }


@pytest.fixture
def untrained() -> DiT:
    torch.manual_seed(0)
    return DiT(**CONFIG)


@pytest.fixture
def dit(untrained: DiT) -> DiT:
    return shake(untrained)


def one_clip(inputs: dict[str, torch.Tensor], i: int) -> dict[str, torch.Tensor]:
    """Clip i as a batch of one. Positions that all clips share stay."""
    return {name: value[i : i + 1] if len(value) == 3 else value for name, value in inputs.items()}


def test_the_untrained_model_predicts_zero(untrained: DiT, inputs) -> None:
    assert torch.equal(untrained(**inputs), torch.zeros(3, 12, 16))


def test_untrained_blocks_are_the_identity(untrained: DiT, inputs) -> None:
    conditioning, level_index = untrained.conditioning(inputs["t"], inputs["text"], OWNER)
    factors = rotation_factors(inputs["positions"][:, :3], untrained.frequencies)
    x = torch.randn(3, 12, untrained.width)
    for block in untrained.blocks:
        assert torch.equal(block(x, conditioning, level_index, factors, inputs["text"]), x)


def test_a_level_per_token_equals_a_level_per_clip(dit: DiT, inputs) -> None:
    per_token = inputs | {"t": inputs["t"][:, None].expand(3, 12)}
    assert torch.allclose(dit(**per_token), dit(**inputs), atol=1e-5)


@pytest.fixture
def half_known(inputs) -> dict[str, torch.Tensor]:
    """The first six tokens of each clip are known: they stand at level 0."""
    levels = inputs["t"][:, None].repeat(1, 12)
    levels[:, :6] = 0
    return inputs | {"t": levels}


def test_conditioning_is_computed_once_per_distinct_level(dit: DiT, half_known) -> None:
    conditioning, _ = dit.conditioning(half_known["t"], half_known["text"], OWNER)
    assert len(conditioning) == 6  # two levels in each of three clips


def test_each_token_finds_the_conditioning_of_its_level(dit: DiT, half_known) -> None:
    conditioning, level_index = dit.conditioning(half_known["t"], half_known["text"], OWNER)
    at_zero, _ = dit.conditioning(torch.zeros(3), half_known["text"], OWNER)
    assert torch.allclose(conditioning[level_index[:, 0]], at_zero, atol=1e-6)


def test_the_level_of_a_token_matters(dit: DiT, inputs, half_known) -> None:
    assert not torch.allclose(dit(**half_known), dit(**inputs), atol=1e-3)


def test_tokens_have_no_order_but_their_positions(dit: DiT, inputs) -> None:
    order = torch.randperm(12)
    permuted = inputs | {
        "x": inputs["x"][:, order],
        "positions": inputs["positions"][order],
    }
    assert torch.allclose(dit(**permuted), dit(**inputs)[:, order], atol=1e-4)


@pytest.mark.parametrize("column", range(5), ids=["t", "h", "w", "height", "width"])
def test_positions_and_the_size_of_the_picture_matter(dit: DiT, inputs, column: int) -> None:
    moved = inputs["positions"] + torch.eye(5)[column]
    assert not torch.allclose(dit(**inputs | {"positions": moved}), dit(**inputs), atol=1e-3)


def test_the_layer_for_the_size_of_the_picture_starts_at_zero(untrained: DiT) -> None:
    """It joins in training, so weights from before there were sizes go on as they were."""
    assert not any(p.any() for p in untrained.scale_embed.parameters())


def test_at_zero_the_size_of_the_picture_does_not_matter(dit: DiT, inputs) -> None:
    for p in dit.scale_embed.parameters():
        torch.nn.init.zeros_(p)
    larger = inputs["positions"] * torch.tensor([1, 1, 1, 3, 3])
    assert torch.equal(dit(**inputs | {"positions": larger}), dit(**inputs))


def test_clips_do_not_see_each_other(dit: DiT, inputs) -> None:
    together = dit(**inputs)
    for i in range(3):
        assert torch.allclose(dit(**one_clip(inputs, i)), together[i : i + 1], atol=1e-4)


def test_clips_may_differ_in_their_positions(dit: DiT, inputs) -> None:
    """Each clip of the batch comes out as it does alone."""
    shifts = torch.tensor([[0.0, 0, 0, 0, 0], [2, 0, 1, 0, 0], [0, 3, 5, 1, 2]])
    moved = inputs["positions"] + shifts[:, None]
    together = dit(**inputs | {"positions": moved})  # (3, 12, 5)
    for i in range(3):
        alone = dit(**one_clip(inputs, i) | {"positions": moved[i]})  # (12, 5)
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)
    assert not torch.allclose(together[1:], dit(**inputs)[1:], atol=1e-3)


def test_repeating_positions_for_every_clip_changes_nothing(dit: DiT, inputs) -> None:
    repeated = inputs | {"positions": inputs["positions"].expand(3, 12, 5)}
    assert torch.allclose(dit(**repeated), dit(**inputs), atol=1e-5)


@pytest.mark.parametrize("per_token", [False, True], ids=["clean", "half known"])
def test_packed_clips_come_out_as_they_do_alone(dit: DiT, inputs, per_token: bool) -> None:
    """Three clips of 12, 4 and 6 tokens as one row: a token sees its own clip and text only."""
    grids, known = [(3, 2, 2), (1, 2, 2), (1, 2, 3)], 3 if per_token else 0
    lengths = [12, 4, 6]
    tokens = [torch.randn(1, count, 16) for count in lengths]
    levels = [torch.full((1, n), 0.2 * (n % 5) + 0.1) for n in lengths]  # one a clip
    for t in levels:
        t[:, :known] = 0
    where = [positions(grid)[None] for grid in grids]
    row = (torch.cat(parts, dim=1) for parts in (tokens, levels))
    together = dit(*row, inputs["text"], torch.cat(where, dim=1), lengths)
    alone = [
        dit(x, t, inputs["text"][i : i + 1], place)
        for i, (x, t, place) in enumerate(zip(tokens, levels, where, strict=True))
    ]
    assert torch.allclose(together, torch.cat(alone, dim=1), atol=1e-5)


@pytest.mark.parametrize(("name", "change"), [("text", 0.5), ("t", 0.05)])
def test_text_and_noise_level_matter(dit: DiT, inputs, name: str, change: float) -> None:
    other = inputs | {name: inputs[name] + change}
    assert not torch.allclose(dit(**other), dit(**inputs), atol=1e-3)


@pytest.mark.parametrize("target", ["v", "x", "eps"])
def test_every_target_converts_to_a_velocity(target: str, inputs) -> None:
    dit = shake(DiT(**CONFIG, target=target))
    x, t, prediction = inputs["x"], inputs["t"][:, None, None], dit(**inputs)
    velocity = {"v": prediction, "x": (x - prediction) / t, "eps": (prediction - x) / (1 - t)}
    assert torch.allclose(dit.velocity(**inputs), velocity[target], atol=1e-4)


def test_every_parameter_learns(dit: DiT, inputs) -> None:
    dit(**inputs).square().sum().backward()
    assert [name for name, p in dit.named_parameters() if p.grad is None or not p.grad.any()] == []


# in millions; DiT-XL of the paper has 675
@pytest.mark.parametrize(
    ("size", "least", "most"), [("tiny", 0, 0.3), ("laptop", 2.5, 3.5), ("XL", 650, 750)]
)
def test_number_of_parameters(size: str, least: float, most: float) -> None:
    with torch.device("meta"):  # counts without memory
        millions = sum(p.numel() for p in DiT(size).parameters()) / 1e6
    assert least < millions < most


@pytest.mark.parametrize("size", SIZES)
def test_named_sizes_can_be_built(size: str) -> None:
    with torch.device("meta"):
        dit = DiT(size)
    assert (dit.width, len(dit.blocks), dit.blocks[0].attention.heads) == SIZES[size]


@pytest.mark.parametrize(
    ("size", "expected"), [("192x2", (192, 2, 6)), ("32x1", (32, 1, 1)), ("64x12", (64, 12, 2))]
)
def test_sizes_can_be_written_as_width_and_depth(size: str, expected) -> None:
    assert dimensions(size) == expected


def test_a_written_size_equals_the_named_one() -> None:
    named, written = DiT("laptop"), DiT("192x4")
    written.load_state_dict(named.state_dict())
    assert written.blocks[0].attention.heads == named.blocks[0].attention.heads


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("huge", "no DiT of size 'huge': sizes are tiny, .*, or WIDTHxDEPTH such as 192x2"),
        ("192x", "no DiT of size '192x'"),
        ("200x2", "must be a multiple of 32, got 200: the nearest is 192"),
        ("8x2", "must be a multiple of 32, got 8: the nearest is 32"),
        ("0x2", "width must be 1 or more, got 0"),
        ("192x0", "depth must be 1 or more, got 0"),
    ],
)
def test_impossible_sizes(size: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DiT(size)


def test_unknown_target() -> None:
    with pytest.raises(InputError, match="no target 'u': targets are v, x and eps"):
        DiT(**CONFIG, target="u")


def test_the_config_builds_the_model_again() -> None:
    dit = DiT("96x1", channels=4, text_width=24, target="x", pooled=False)
    again = DiT(**json.loads(json.dumps(dit.config)))
    assert again.config == dit.config
    again.load_state_dict(dit.state_dict())
