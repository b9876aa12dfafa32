"""Evaluation: flat rows of what the oracle and the captioner read, and the tables made of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import untrained_sora

from minisora import Captioner, Sora, Upsampler, world
from minisora.evaluate import (
    evaluation_cases,
    fingerprints,
    prompts_of,
    sample_clips,
    score_model,
    true_clips,
)
from minisora.metrics import captioner_rows
from minisora.report import all_tables, label, one, seen, select, summary
from minisora.weights import shipped

CLIPS = 4


def two_worlds() -> Sora:
    sora = untrained_sora()
    sora.trained_on = sora.trained_on | {"worlds": ["pairs", "shapes"]}
    return sora


@pytest.fixture(scope="module")
def result() -> dict:
    """An untrained model of two worlds, scored with an untrained captioner."""
    captioner = Captioner(sorted(world.WORDS), width=32, depth=1).eval()
    upsampler = Upsampler.from_pretrained()
    return score_model(two_worlds(), CLIPS, captioner=captioner, upsampler=upsampler)


@pytest.fixture(scope="module")
def rows(result: dict) -> list[dict]:
    return result["rows"]


# Rows


def test_a_result_is_json(result: dict) -> None:
    assert json.loads(json.dumps(result)) == result


def test_a_result_says_how_it_was_made(result: dict) -> None:
    assert list(result) == ["clips", "seed", "defaults", "minutes", "rows"]
    assert result["clips"] == CLIPS


def test_rows_are_flat(rows: list[dict]) -> None:
    for row in rows:
        assert all(value is None or isinstance(value, str | int | float) for value in row.values())


def test_every_row_says_what_was_measured(rows: list[dict]) -> None:
    for row in rows:
        assert list(row)[:5] == ["world", "split", "frames", "source", "measure"]


def test_every_row_has_a_share_or_a_value(rows: list[dict]) -> None:
    for row in rows:
        assert ({"right", "low", "high"} <= row.keys()) != ("value" in row)


def test_no_two_rows_measure_the_same(rows: list[dict]) -> None:
    assert len({tuple(list(row.values())[:5]) for row in rows}) == len(rows)


def test_every_split_of_every_world_is_sampled(rows: list[dict]) -> None:
    found = [(row["world"], row["split"], row["frames"]) for row in rows if "right" in row]
    splits = ("train", "held_out", "held_out_motion")
    clips = {(name, split, 17) for name in ("shapes", "pairs") for split in splits}
    assert set(found) == clips | {("shapes", "train", 1)}


@pytest.mark.parametrize("name", ["shapes", "pairs"])
def test_a_world_has_a_row_for_each_of_its_scores(rows: list[dict], name: str) -> None:
    found = select(rows, world=name, split="train", frames=17, source="sampled")
    assert set(world.get(name).scores) <= {row["measure"] for row in found}


def test_an_untrained_model_is_never_right(rows: list[dict]) -> None:
    assert all(row["right"] == 0 for row in select(rows, source="sampled", measure="all"))


def test_the_baseline_is_of_the_first_world(rows: list[dict]) -> None:
    found = select(rows, source="pca")
    assert {(row["world"], row["split"], row["frames"]) for row in found} == {
        ("shapes", "train", 17)
    }


@pytest.mark.parametrize("source", ["sampled", "vae", "true"])
def test_the_captioner_judges_clips_of_every_source(rows: list[dict], source: str) -> None:
    found = select(rows, world="shapes", split="train", frames=17, source=source)
    assert {"caption", "cosine", "frechet"} <= {row["measure"] for row in found}


def test_the_shipped_captioner_is_right_about_true_clips() -> None:
    clips = [world.clip(9, index) for index in range(CLIPS)]
    frames, captions = np.stack([c.frames for c in clips]), [c.caption for c in clips]
    found = captioner_rows(Captioner.from_pretrained(), {"true": frames}, captions, frames)
    measured = {row["measure"]: row for row in found}
    assert measured["caption"]["right"] == 1
    assert measured["frechet"]["value"] == pytest.approx(0, abs=1e-3)  # from the clips themselves


def test_short_prompts_are_scored_as_typed_and_completed(rows: list[dict]) -> None:
    found = select(rows, source="short prompts")
    assert [row["measure"] for row in found] == ["as typed", "completed"]


def test_without_judges_there_are_no_rows_of_theirs() -> None:
    found = score_model(untrained_sora(), 2)["rows"]
    assert {row["source"] for row in found} == {"sampled", "vae", "pca"}
    assert "caption" not in {row["measure"] for row in found}


# Choosing rows

ROWS = [
    {"world": "shapes", "split": "train", "frames": 17, "measure": "all", "right": 0.9},
    {"world": "shapes", "split": "train", "frames": 1, "measure": "all", "right": 0.8},
    {"world": "shapes", "split": "held_out", "frames": 17, "measure": "all", "right": 0.7},
]


def test_select_returns_the_rows_that_agree() -> None:
    assert select(ROWS, split="train") == ROWS[:2]


def test_one_returns_the_only_row() -> None:
    assert one(ROWS, split="held_out")["right"] == 0.7


@pytest.mark.parametrize("split", ["train", "none"], ids=["two rows", "no row"])
def test_one_refuses_what_is_not_one_row(split: str) -> None:
    with pytest.raises(ValueError):
        one(ROWS, split=split)


def test_seen_returns_the_clips_and_not_the_images() -> None:
    assert seen(ROWS, measure="all")["right"] == 0.9


@pytest.mark.parametrize(
    ("index", "expected"), [(0, "seen"), (1, "seen, images"), (2, "held-out pairs")]
)
def test_labels(index: int, expected: str) -> None:
    assert label(ROWS[index]) == expected


def test_a_split_without_a_name_is_called_as_it_is() -> None:
    assert label({"split": "night", "frames": 17}) == "night"


# Tables


def lines(table: str) -> list[list[str]]:
    """The cells of a Markdown table, without the line below its head."""
    found = [line.strip("|").split("|") for line in table.splitlines()]
    return [[cell.strip() for cell in line] for line in found[:1] + found[2:]]


def test_the_summary_has_a_line_for_each_kind_of_prompt(result: dict) -> None:
    assert [line[0] for line in lines(summary(result))] == [
        "everything right, % of 4 prompts",
        "one object",
        "images of one object",
        "two objects",
        'short prompts ("red circle"), as typed',
        'short prompts ("red circle"), completed',
        "ceiling: true clips after the VAE",
    ]


def test_the_summary_has_a_column_for_each_split(result: dict) -> None:
    assert lines(summary(result))[0][1:] == ["seen", "held-out pairs", "held-out motions"]


def test_the_summary_shows_shares_with_their_intervals(result: dict) -> None:
    assert lines(summary(result))[1][1] == "0.0 (0.0-49.0)"


def test_the_tables_begin_with_the_summary(result: dict) -> None:
    assert all_tables(result).startswith(summary(result))


@pytest.mark.parametrize(
    "part",
    [
        "Reconstruction of seen clips: the VAE ",
        "| % right of 4, one object | seen | ",
        "| % right of 4, two objects | seen | ",
        "| **all of it** | 0.0 (0.0-49.0)",
        "| what the captioner says | ",
    ],
)
def test_there_is_a_table_for_each_world_and_judge(result: dict, part: str) -> None:
    assert part in all_tables(result)


def test_an_image_has_no_score_of_motion(result: dict) -> None:
    table = all_tables(result).partition("| % right of 4, one object")[2]
    head, motion = table.partition("\n")[0], table.partition("\n| motion |")[2].partition("\n")[0]
    assert head.split("|")[4].strip() == "seen, images"
    assert motion.split("|")[3].strip() == ""


# Prompts and clips


def test_the_clips_of_an_evaluation_are_of_the_models_size() -> None:
    sora = untrained_sora()
    case = evaluation_cases(sora, short=False)[0]
    assert true_clips(sora, case, 1, seed=0)[0].frames.shape == (17, 32, 32, 3)


def test_a_model_of_images_has_no_second_row_of_images() -> None:
    sora = untrained_sora()
    sora.trained_on = sora.trained_on | {"durations": [1]}
    found = [(case.split, case.frames) for case in evaluation_cases(sora, short=False)]
    assert len(set(found)) == len(found)


def test_short_prompts_as_typed_are_the_short_captions() -> None:
    sora = untrained_sora()
    (case,) = (each for each in evaluation_cases(sora, short=True) if each.prompts == "as typed")
    truth = true_clips(sora, case, 3, seed=0)
    assert prompts_of(case, truth, None, 0) == [clip.short_caption for clip in truth]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_batch_does_not_change_the_number_of_clips(tiny_sora: Sora, batch: int) -> None:
    clips = sample_clips(tiny_sora, ["red circle"] * 5, frames=1, batch=batch)
    assert clips.shape == (5, 1, 32, 32, 3)


def test_sampling_repeats_by_its_seed(tiny_sora: Sora) -> None:
    a, b = (sample_clips(tiny_sora, ["red circle"], seed=1, frames=1) for _ in range(2))
    assert np.array_equal(a, b)


def test_fingerprints_are_those_of_the_parts(tiny_sora: Sora, tmp_path: Path) -> None:
    tiny_sora.save(tmp_path)
    own, ours = fingerprints(str(tmp_path)), fingerprints()
    assert list(own) == ["vae", "text", "dit", "captioner", "upsampler"]
    assert own["captioner"] == ours["captioner"]  # the shipped one is the judge
    assert own["dit"] != ours["dit"]
    assert ours == fingerprints(str(shipped()))


def test_sampling_leaves_the_global_random_state(tiny_sora: Sora) -> None:
    before = torch.random.get_rng_state()
    sample_clips(tiny_sora, ["red circle"], frames=1)
    assert torch.equal(torch.random.get_rng_state(), before)
