"""The experiments' machinery, on a VAE and a transformer that know nothing."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import shake

from minisora import Sora, evaluate, weights, world
from minisora.data import LatentData
from minisora.experiments import binding, paraphrases, recaption, recipe, short_runs
from minisora.experiments.short_runs import Recipe
from minisora.vae import VAE
from minisora.world import shapes

MODEL = {"size": "tiny", "channels": 4, "patch": (1, 1, 1), "text_width": 32, "warmup": 2}


@pytest.fixture
def data(tmp_path: Path) -> LatentData:
    weights.save(tmp_path, {}, vae=shake(VAE(channels=4, space=8, width=16, depth=1)))
    data = LatentData(str(tmp_path), clips=64, shorter=0.0)
    data.setup("fit")
    return data


def test_every_change_trains_and_samples(data: LatentData) -> None:
    """On a tiny model, but where the change is its form."""
    for name, change in recipe.CHANGES.items():
        config = Recipe.from_config()
        config.model |= MODEL
        config.batch = 4
        change(config)
        if "toy VAE" in name:
            assert name == f"a toy VAE's {config.model['channels']} channels"
            assert config.vae is not short_runs.shipped
        config.model["channels"] = 4
        sora = short_runs.train(config, data, 0, steps=2)
        assert isinstance(sora, Sora), name
        form = (64, 2) if config.size is None else config.size[:2]
        assert (sora.dit.width, len(sora.dit.blocks)) == form, name
        (made,) = evaluate.sample(sora, [config.caption("a small red circle growing")])
        assert made.shape == (17, 32, 32, 3), name


def test_runs_repeat_themselves(data: LatentData) -> None:
    """Also beside another one that is stepped in turns, on the same data."""
    config = Recipe.from_config()
    config.model |= MODEL
    config.batch = 4
    other = Recipe(config.model, batch=8, decay=0.0)
    first = short_runs.Run(config, data, 0)
    second, beside = short_runs.Run(config, data, 0), short_runs.Run(other, data, 1)
    for step in range(3):
        first.step(step / 3)
    for step in range(3):
        beside.step(step / 3)
        second.step(step / 3)
    same = zip(first.averages, second.averages, strict=True)
    assert all(torch.equal(*pair) for pair in same)
    assert not torch.equal(first.averages[-1], beside.averages[-1])


def test_what_costs_more_makes_fewer_steps(data: LatentData, tmp_path: Path, monkeypatch) -> None:
    clock, made = [0.0], []

    def run(recipe: Recipe, *_: object) -> SimpleNamespace:
        def step(_: float) -> None:
            clock[0] += recipe.batch / 32

        return SimpleNamespace(step=step)

    clip = world.clip(0, 0, split="held_out")
    monkeypatch.setattr(short_runs.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(recipe, "Run", run)
    monkeypatch.setattr(recipe, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(recipe, "cached_latents", lambda **_: data)
    monkeypatch.setattr(
        recipe, "train", lambda *args: (made.append(args[-1]), SimpleNamespace(defaults={}))[1]
    )
    monkeypatch.setattr(recipe, "fresh_clips", lambda *_: [clip])
    monkeypatch.setattr(short_runs, "sample", lambda *_: clip.frames[None])
    recipe.run([0], 100, 1, ["batch 64", "batch 16", "asked for x", "none"])
    assert made == [50, 200, 100, 100]  # whose cost is measured in turns


def test_a_vae_is_trained_once(tmp_path: Path, monkeypatch) -> None:
    asked = []

    def fit(stage: str, arguments: list[str]) -> None:
        given = dict(zip(arguments[::2], arguments[1::2], strict=True))
        asked.append((stage, given["--model.channels"]))
        vae = VAE(channels=int(given["--model.channels"]), space=8, width=16, depth=1)
        weights.save(Path(given["--trainer.default_root_dir"]) / "weights", {}, vae=vae)

    monkeypatch.setattr(short_runs, "ROOT", tmp_path)
    monkeypatch.setattr(short_runs, "fit", fit)
    for _ in range(2):
        assert weights.load(short_runs.toy_vae(8), "vae", VAE).channels == 8
    assert asked == [("vae", "8")]


def test_spread_changes_deviations_and_keeps_the_mean_square() -> None:
    deviation, config = torch.tensor([2.0, 1.0, 0.5]), Recipe.from_config()
    for power in (0.0, 1.0, 2.0):
        recipe.spread(power)(config)
        made = config.scale(deviation) * deviation
        assert torch.allclose(made / made[1], deviation**power)
        assert torch.isclose(made.square().mean(), deviation.square().mean())


def test_scaled_latents_are_scaled_back(data: LatentData) -> None:
    scale = torch.rand(1, 4, 1, 1, 1) + 0.5
    latents = data.latents[:2].float()
    rescaled = short_runs.Rescaled(data.vae, scale)
    assert torch.allclose(rescaled.decode(latents * scale), data.vae.decode(latents), atol=1e-4)


def test_results_are_kept_and_not_run_again(data: LatentData, tmp_path: Path, monkeypatch) -> None:
    runs, asked = [], []
    clip = world.clip(0, 0, split="held_out")
    model = SimpleNamespace(defaults={"guidance_scale": 2.0})
    monkeypatch.setattr(recipe, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(recipe, "SAMPLING", {"guidance 3": {"guidance_scale": 3.0}})
    monkeypatch.setattr(recipe, "cached_latents", lambda **_: data)
    monkeypatch.setattr(recipe, "Run", lambda *_: None)
    monkeypatch.setattr(recipe, "relative_cost", lambda *_: 1)
    monkeypatch.setattr(recipe, "train", lambda *_: (runs.append(1), model)[1])
    monkeypatch.setattr(recipe, "fresh_clips", lambda *_: [clip])

    def sample(sora: SimpleNamespace, _: list[str]) -> np.ndarray:
        asked.append(sora.defaults["guidance_scale"])
        model.defaults = {"guidance_scale": 2.0}  # as a model just trained
        return clip.frames[None]

    monkeypatch.setattr(short_runs, "sample", sample)
    for seeds in ([0], [0, 1], [0, 1]):
        table = recipe.run(seeds, 7, 8, ["none", "batch 16"]).splitlines()
    assert len(runs) == 4 and asked == [2.0, 3.0, 2.0] * 2
    assert (
        table[2] == "| none | 7 | 100% | 100% | 100% | 100% | 100.0, 100.0 |" and len(table) == 5
    )
    assert table[4].startswith("| guidance 3 | 7 | 100% |")
    kept = short_runs.found(recipe.RESULTS, change="none")
    assert [row["seed"] for row in kept] == [0, 1]
    short_runs.keep(tmp_path / "late.jsonl", seed=1)  # two runs at a time end in any order
    short_runs.keep(tmp_path / "late.jsonl", seed=0)
    assert [row["seed"] for row in short_runs.found(tmp_path / "late.jsonl")] == [0, 1]
    table = recipe.run([0], 9, 8, ["none"]).splitlines()  # of another length: not the same run
    assert len(runs) == 5 and table[2].endswith("| 100.0 |") and len(table) == 4
    monkeypatch.setattr(recipe, "fingerprint", lambda *_: "another VAE")
    recipe.run([0], 9, 8, ["none"])
    assert len(runs) == 6


def test_kept_results_make_the_tables() -> None:
    """Those that come with the repository."""
    runs = short_runs.found(recipe.RESULTS)
    assert len(recipe.table(runs).splitlines()) == 2 + len({run["change"] for run in runs}) > 2
    for experiment, word in ((recaption, "what people wrote"), (paraphrases, "MiniLM")):
        runs = short_runs.found(experiment.RESULTS)
        assert word in experiment.table(runs, [run["seed"] for run in runs])


def test_what_a_short_prompt_names_has_to_be_right() -> None:
    read = world.describe(world.clip(0, 0).frames)
    assert evaluate.named_right(f"a {read['shape']}", read)
    assert evaluate.named_right(f"{read['color']} {read['shape']} {read['motion']}", read)
    other = "star" if read["shape"] != "star" else "cross"
    assert not evaluate.named_right(other, read)
    assert not evaluate.named_right(read["shape"], read | {"clean": False})


def test_intervals_of_paired_gains() -> None:
    rng = np.random.default_rng(1)
    gains = rng.choice([-1, 0, 1], size=(3, 400), p=[0.1, 0.6, 0.3])
    low, high = recaption.interval(gains)
    assert low < 20 < high and high - low < 16
    assert recaption.interval(np.zeros((3, 10))) == (0, 0)


def test_answers_are_judged_by_what_the_prompt_names(monkeypatch) -> None:
    clips = [world.clip(0, i, split="held_out") for i in range(8)]
    truth = np.stack([clip.frames for clip in clips])
    monkeypatch.setattr(recaption, "sample", lambda *_: truth)
    right = recaption.answers(None, clips)  # type: ignore[arg-type]
    assert right == {kind: [1] * 8 for kind in ("rich", "short", "upsampled")}
    monkeypatch.setattr(recaption, "sample", lambda *_: truth[::-1])
    assert sum(recaption.answers(None, clips)["rich"]) == 0  # type: ignore[arg-type]
    runs = [{"captions": arm, "seed": 0, **right} for arm in recaption.ARMS]
    table = recaption.table(runs, [0]).splitlines()
    assert table[2].startswith("| what people wrote | rich | 100.0% |") and len(table) == 11
    assert "+0.0 (+0.0 to +0.0)" in table[3]


def test_recaptioning_trains_on_each_kind_of_captions(
    data: LatentData, tmp_path: Path, monkeypatch
) -> None:
    told = []

    def train(_: Recipe, lessons: LatentData, *__: object) -> None:
        assert lessons.image_captions == lessons.captions
        told.append(lessons.captions)

    right = {kind: [1] for kind in ("rich", "short", "upsampled")}
    monkeypatch.setattr(recaption, "RESULTS", tmp_path / "recaption.jsonl")
    monkeypatch.setattr(recaption, "ROOT", tmp_path)
    (tmp_path / "runs" / "experiments").mkdir(parents=True)
    monkeypatch.setattr(recaption, "cached_latents", lambda: data)
    monkeypatch.setattr(recaption, "train", train)
    monkeypatch.setattr(recaption, "fresh_clips", lambda *_: [])
    monkeypatch.setattr(recaption, "answers", lambda *_: right)
    truth = list(data.captions)
    for _ in range(2):
        assert len(recaption.run([0], 7, 1).splitlines()) == 11
    human, synthetic, true = told  # and nothing is trained twice
    assert true == truth == data.captions
    assert not any(said in truth for said in human)
    assert np.mean([a == b for a, b in zip(synthetic, truth, strict=True)]) > 0.8


def test_paraphrases_are_judged_attribute_by_attribute(monkeypatch) -> None:
    clips = [world.clip(0, i) for i in range(8)]
    frames = {clip.caption: clip.frames for clip in clips}
    shifted = {f"a {clips[i].truth['shape']} {i}": clips[i - 1].frames for i in range(8)}
    meant = list(zip(shifted, frames, strict=True))
    monkeypatch.setattr(paraphrases, "TIMES", 1)
    monkeypatch.setattr(paraphrases, "phrases", lambda: meant)
    monkeypatch.setattr(
        paraphrases,
        "sample",
        lambda _, prompts, seed: np.stack([(frames | shifted)[p] for p in prompts]),
    )
    scores = paraphrases.answers(None)  # type: ignore[arg-type]
    scores = json.loads(json.dumps(scores))
    assert all(set(right) == {1} for right in scores["captions"].values())
    alike = [clips[i].truth["color"] == clips[i - 1].truth["color"] for i in range(8)]
    assert scores["paraphrases"]["color"] == alike and not all(alike)
    assert paraphrases.shares([scores] * 2, "captions")["shape"].shape == (2, 8)
    assert paraphrases.shares([scores], "paraphrases")["shape"].shape == (
        1,
        0,
    )  # all keep the word
    named = sum(clip.truth["size"] is not None for clip in clips)
    assert paraphrases.shares([scores], "paraphrases")["size"].shape == (1, named) != (1, 8)


def test_the_table_of_paraphrases() -> None:
    count = len(paraphrases.phrases())
    every = {name: [paraphrases.TIMES] * count for name in (*world.ATTRIBUTES, "clean", "all")}
    scores = {"captions": every, "paraphrases": every | {"all": [0] * count}}
    runs = [{"reader": name, "seed": 0, "steps": 7, **scores} for name in paraphrases.READERS]
    rows = paraphrases.table(runs, [0]).splitlines()
    assert rows[2] == (
        "| own words, as shipped | 7 | captions |"
        + " 100% |" * 5
        + " 100.0% (100.0 to 100.0) | 100.0 |"
    )
    assert "| 0.0% (0.0 to 0.0) | 0.0 |" in rows[3] and len(rows) == 8


def test_paraphrases_mean_captions_and_say_them_in_other_words() -> None:
    said = paraphrases.phrases()
    assert len(said) >= 40
    for paraphrase, caption in said:
        meant = shapes.parse(caption)
        assert world.caption(meant) == caption, caption
        named = {name for name, word in shapes.parse(paraphrase).items() if word}
        assert named != {name for name, word in meant.items() if word}, paraphrase


def test_other_words_mean_the_same_and_keep_away_from_the_paraphrases() -> None:
    words, rng = paraphrases.wordings(), np.random.default_rng(0)
    values = {*shapes.COLORS, *shapes.SHAPES, *shapes.SIZES, *shapes.BACKGROUNDS, *shapes.MOTIONS}
    assert set(words) == values
    for i in range(50):
        caption = world.clip(0, i, num_frames=1 + 16 * (i % 2)).caption
        said = paraphrases.worded(caption, words, rng)
        for value in filter(None, shapes.parse(caption).values()):
            assert any(other in said for other in words[value]), (caption, said)
    texts = [*paraphrases.FORMS, *(other for others in words.values() for other in others)]
    taught, asked = (
        set(re.findall("[a-z]+", " ".join(said).lower()))
        for said in (texts, [paraphrase for paraphrase, _ in paraphrases.phrases()])
    )
    assert (taught & asked) - world.WORDS <= {"the", "size"}  # "size" is a form's own name


def test_a_share_of_captions_is_said_in_other_words() -> None:
    changed = paraphrases.recipe(0.5, seed=0)
    said = {
        changed.caption("a small red circle moving left on a black background") for _ in range(40)
    }
    assert "a small red circle moving left on a black background" in said and len(said) > 10


def test_binding_trains_each_way_and_keeps_its_results(
    data: LatentData, tmp_path: Path, monkeypatch
) -> None:
    told, trained = [], []

    def train(config: Recipe, *_: object) -> str:
        trained.append((config.model["pooled"], config.caption("a red star below a blue cross")))
        return "a model"

    scene = world.pairs.clip(0, 0, split="held_out")
    monkeypatch.setattr(binding, "RESULTS", tmp_path / "binding.jsonl")
    monkeypatch.setattr(binding, "cached_latents", lambda pairs: data)
    monkeypatch.setattr(binding, "train", train)
    monkeypatch.setattr(binding, "fresh_clips", lambda *_: [scene])
    monkeypatch.setattr(
        short_runs, "sample", lambda _, prompts: (told.append(prompts[0]), scene.frames[None])[1]
    )
    binding.run([0], 7, 1, ["attention alone"])
    table = binding.run([0], 7, 1, [])
    assert [pooled for pooled, _ in trained] == [False, True, True, False]
    assert set(told) == {scene.caption, world.pairs.in_order(scene.caption)}
    assert table.splitlines()[2] == "| attention alone | 0 | 7 |" + " 100% |" * 7
