"""A new world is one file and one registered line: a world of lamps, written here, is trained on,
sampled and scored by code that has never heard of it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import fit

from minisora import InputError, Sora, world
from minisora.cli import main
from minisora.evaluate import score_model
from minisora.report import all_tables
from minisora.world import WORLDS, Clip, World

# The world: a lamp fills the picture with its color

COLORS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220)}


def clip(seed, index, num_frames=17, height=32, width=32, split="train") -> Clip:
    name = list(COLORS)[(seed + index) % 3]
    frames = np.full((num_frames, height, width, 3), COLORS[name], np.uint8)
    return Clip(frames, f"a {name} lamp", name, {"color": name, "clean": True}, "lamp")


def describe(frames: np.ndarray) -> dict:
    mean = frames.mean((0, 1, 2))
    name = min(COLORS, key=lambda name: np.abs(mean - COLORS[name]).sum())
    return {"color": name, "clean": bool(frames.std((0, 1, 2)).max() < 20)}


def agree(truth: dict, read: dict) -> dict[str, bool]:
    right = {"color": truth["color"] == read["color"], "clean": read["clean"]}
    return right | {"all": all(right.values())}


def parse(text: str) -> dict | None:
    words = text.split()
    return {"color": words[1]} if words[:1] + words[2:] == ["a", "lamp"] else None


LAMP = World(
    name="lamp",
    words=frozenset({"a", "lamp", *COLORS}),
    splits=("train",),
    scores=("color", "clean", "all"),
    clip=clip,
    describe=describe,
    agree=agree,
    parse=parse,
    caption=lambda truth: f"a {truth['color']} lamp",
)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    world.register(LAMP)
    yield
    del WORLDS["lamp"]


@pytest.fixture(scope="module")
def lamps(registered: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a VAE and a transformer that were trained on lamps for a few seconds."""
    root = tmp_path_factory.mktemp("lamps")
    on_lamps = '--data.worlds={"lamp": 1.0}'
    fit("vae", root, on_lamps)
    fit("dit", root, on_lamps, f"--data.view.vae={root}/vae/weights", "--model.dit.target=x")
    return root / "dit" / "weights"


def test_the_oracle_agrees_with_the_truth() -> None:
    clips = [LAMP.clip(0, index) for index in range(3)]
    assert all(agree(each.truth, describe(each.frames))["all"] for each in clips)


def test_the_bundle_names_the_world(lamps: Path) -> None:
    config = json.loads((lamps / "config.json").read_text())
    assert config["trained_on"]["worlds"] == ["lamp"]


def test_the_vocabulary_is_that_of_the_world(lamps: Path) -> None:
    config = json.loads((lamps / "config.json").read_text())
    assert config["text"]["config"]["words"] == sorted(LAMP.words)


def test_validation_scores_the_attributes_of_the_world(lamps: Path) -> None:
    record = json.loads((lamps / "provenance.json").read_text())["dit"]
    assert {"val/color", "val/clean", "val/all", "ceiling/all"} <= record["curve"][-1].keys()
    assert "val/shape" not in record["curve"][-1]


def test_the_vae_keeps_the_color_of_a_lamp(lamps: Path) -> None:
    record = json.loads((lamps / "provenance.json").read_text())["dit"]
    assert record["curve"][-1]["ceiling/color"] == 1


@pytest.fixture(scope="module")
def result(lamps: Path) -> dict:
    return score_model(Sora.from_pretrained(lamps), clips=3)


def test_an_evaluation_has_rows_of_the_world(result: dict) -> None:
    assert {row["world"] for row in result["rows"]} == {"lamp"}


def test_an_evaluation_has_a_row_for_each_score(result: dict) -> None:
    sampled = [row["measure"] for row in result["rows"] if row["source"] == "sampled"]
    assert sampled == ["color", "clean", "all"]


def test_an_evaluation_is_shown_as_tables(result: dict) -> None:
    assert "| % right of 3, lamp | seen |" in all_tables(result)


def test_the_oracle_of_the_world_reads_a_sampled_clip(
    lamps: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "lamp.gif"
    main(["sample", "a red lamp", "--as-typed", "--out", str(out), "--weights", str(lamps)])
    assert "the oracle sees a " in capsys.readouterr().out
    assert out.exists()


def test_the_world_can_be_mixed_with_others() -> None:
    mixture = world.Mixture({"lamp": 0.5, "shapes": 0.5})
    assert {mixture.clip(0, index).world for index in range(20)} == {"lamp", "shapes"}


def test_a_world_that_is_not_registered_is_refused() -> None:
    known = "shapes, pairs, events, lamp"
    with pytest.raises(InputError, match=f"no world 'candle': the worlds are {known}"):
        world.get("candle")
