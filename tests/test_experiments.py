"""Experiments: lists of runs that are flags of `minisora fit`, their training, scores and tables."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shake

from minisora import Sora, fit, weights, world
from minisora.data import ClipData
from minisora.dit import DiT
from minisora.evaluate import sample_clips
from minisora.experiments import binding, going_on, paraphrases, recaption, recipe, runs
from minisora.experiments.runs import Run
from minisora.patches import positions
from minisora.pipeline import Settings
from minisora.vae import VAE, to_pixels
from minisora.variants.positions import NoPositionEmbedding, NoRotations
from minisora.views import Latents, read_captions
from minisora.weights import fingerprint
from minisora.world import language, shapes

MODULES = {
    "recipe": recipe,
    "binding": binding,
    "recaption": recaption,
    "paraphrases": paraphrases,
}
FLAGS = [
    pytest.param(run.flags, id=f"{name}-{run.slug}")
    for name in MODULES
    for run in MODULES[name].RUNS
    if run.flags
]
TOY = ["--config", str(runs.ROOT / "configs" / "toy" / "dit.yaml")]
TINY = (
    *("--data.clips", "8"),
    *("--data.batch_size", "4"),
    *("--model.dit.size", "tiny"),
    *("--model.dit.patch", "[1, 1, 1]"),
    *("--model.text.width", "32"),
    *("--model.warmup", "2"),
    *("--trainer.enable_progress_bar", "false"),
)


class Playback:
    """Stands in for a model: returns these frames, one a prompt, over and over."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames, self.prompts = frames, []
        self.defaults: dict[str, Any] = {}

    def __call__(self, prompts: list[str], *_: Any, **__: Any) -> np.ndarray:
        numbers = np.arange(len(self.prompts), len(self.prompts) + len(prompts))
        self.prompts += prompts
        return self.frames[numbers % len(self.frames)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Runs go here instead of to runs/experiments."""
    monkeypatch.setattr(runs, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def small_vae(tmp_path: Path) -> Path:
    """The bundle of a VAE that knows nothing."""
    bundle = tmp_path / "small-vae"
    weights.save(bundle, {}, vae=shake(VAE(channels=4, space=8, width=16, depth=1)))
    return bundle


@pytest.fixture
def tiny(small_vae: Path) -> Run:
    """A run that trains in a second."""
    return Run("tiny", "tiny", TINY, vae=lambda: small_vae)


@pytest.fixture(scope="module")
def toy_config() -> dict[str, Any]:
    """Model and data of configs/toy/dit.yaml."""
    config = fit.parse("dit", TOY)
    return {key: config[key] for key in ("model", "data")}


@pytest.fixture
def eight_clips() -> list[world.Clip]:
    return [world.clip(0, index, split="held_out") for index in range(8)]


def frames_of(clips: list[world.Clip]) -> np.ndarray:
    return np.stack([clip.frames for clip in clips])


# The lists of runs


@pytest.mark.parametrize("flags", FLAGS)
def test_the_flags_of_every_run_change_its_config(flags: tuple[str, ...], toy_config) -> None:
    config = fit.parse("dit", [*TOY, *flags])
    assert {key: config[key] for key in toy_config} != toy_config


@pytest.mark.parametrize("name", MODULES)
def test_no_two_runs_are_the_same(name: str) -> None:
    rows = MODULES[name].RUNS
    differences = [(r.flags, r.vae, r.captions, r.steps, str(r.sampling)) for r in rows]
    assert len(set(differences)) == len(rows)
    assert len({run.label for run in rows}) == len({run.slug for run in rows}) == len(rows)


@pytest.mark.parametrize("name", MODULES)
def test_slugs_can_name_files(name: str) -> None:
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", run.slug) for run in MODULES[name].RUNS)


def test_a_toy_vae_has_the_channels_that_its_run_is_called_after() -> None:
    channels = {run.slug: run.vae.args for run in recipe.RUNS if run.slug.startswith("vae-")}
    assert channels == {f"vae-{count}": (count,) for count in (4, 8, 16, 32)}


@pytest.mark.parametrize(
    ("slug", "pooled", "ordered"),
    [
        ("pooled", True, False),
        ("attention", False, False),
        ("pooled-ordered", True, True),
        ("attention-ordered", False, True),
    ],
)
def test_binding_learns_two_objects_in_four_ways(slug: str, pooled: bool, ordered: bool) -> None:
    (run,) = runs.chosen(binding.RUNS, [slug])
    config = fit.parse("dit", [*TOY, *run.flags])
    assert config["model"]["dit"]["init_args"]["pooled"] is pooled
    assert bool(config["data"]["view"]["init_args"]["ordered_steps"]) is ordered
    assert config["data"]["worlds"] == {"pairs": 0.5, "shapes": 0.5}


def test_ordered_runs_are_asked_in_order() -> None:
    caption = "a red star moving left below a blue cross moving left on a black background"
    asked = {run.prompt(caption) for run in runs.chosen(binding.RUNS, ["pooled-ordered"])}
    assert asked == {language.in_order(caption)} != {caption}


# Training


@pytest.mark.parametrize(
    "change", [run for run in recipe.TRAINING if run.flags], ids=lambda run: run.slug
)
def test_every_change_trains_and_samples(change: Run, tiny: Run, folder: Path) -> None:
    """On a tiny model, but for what the change is about."""
    run = replace(tiny, slug=change.slug, flags=TINY + change.flags)
    sora = Sora.from_pretrained(runs.train("recipe", run, seed=0, steps=2), "cpu")
    (frames,) = sample_clips(sora, [change.prompt("a small red circle growing")])
    assert frames.shape == (17, 32, 32, 3)


@pytest.mark.parametrize(("slug", "form"), [("192x2", (192, 2)), ("128x4", (128, 4))])
def test_sizes_are_width_and_depth(slug: str, form: tuple[int, int], tiny: Run, folder: Path):
    (change,) = runs.chosen(recipe.RUNS, [slug])
    bundle = runs.train("recipe", replace(tiny, flags=TINY + change.flags), seed=0, steps=1)
    dit = Sora.from_pretrained(bundle, "cpu").dit
    assert (dit.width, len(dit.blocks)) == form


def test_a_run_depends_on_its_seed_only(tiny: Run, folder: Path) -> None:
    first, second = (runs.train(name, tiny, seed=0, steps=3) for name in ("first", "second"))
    other = runs.train("first", tiny, seed=1, steps=3)
    assert fingerprint(first, "dit") == fingerprint(second, "dit") != fingerprint(other, "dit")


def test_a_run_is_trained_once(tiny: Run, folder: Path, monkeypatch) -> None:
    trained = []
    real = fit.train
    monkeypatch.setattr(fit, "train", lambda *given: (trained.append(given), real(*given)))
    for _ in range(2):
        runs.train("recipe", tiny, seed=0, steps=2)
    assert len(trained) == 1
    runs.train("recipe", tiny, seed=0, steps=3)  # other flags
    assert len(trained) == 2
    weights.save(tiny.vae(), {}, vae=shake(VAE(channels=4, space=8, width=16, depth=1), seed=1))
    runs.train("recipe", tiny, seed=0, steps=3)  # the same flags, but another VAE
    assert len(trained) == 3


def test_a_run_names_its_seed_steps_vae_and_captions(folder: Path, tiny: Run, monkeypatch) -> None:
    given = []
    monkeypatch.setattr(fit, "train", lambda _, arguments: given.extend(arguments))
    run = replace(tiny, steps=0.25, captions=lambda seed: Path(f"captions-{seed}"))
    bundle = runs.train("recipe", run, seed=3, steps=100)
    flags = dict(zip(given[::2], given[1::2], strict=True))
    assert flags["--trainer.max_steps"] == "25"
    assert flags["--data.seed"] == "3"
    assert flags["--data.view.vae"] == str(tiny.vae())
    assert flags["--data.view.captions"] == "captions-3"
    assert bundle == folder / "recipe" / "tiny-3" / "weights"


def test_a_toy_vae_is_trained_once(folder: Path) -> None:
    flags = ["--data.clips", "8", "--model.vae.channels", "4", "--trainer.max_steps", "1"]
    flags += ["--data.validation_clips", "1", "--trainer.enable_progress_bar", "false"]
    bundle = runs.fit_once("vae", flags, folder / "vae", {})
    assert weights.load(bundle, "vae", VAE).channels == 4
    trained = (bundle / "vae.safetensors").stat().st_mtime_ns
    runs.fit_once("vae", flags, folder / "vae", {})
    assert (bundle / "vae.safetensors").stat().st_mtime_ns == trained


# Variants of positions


def stirred(dit: DiT) -> DiT:
    """All that is trained gets random numbers."""
    with torch.no_grad():
        for p in filter(lambda p: p.requires_grad, dit.parameters()):
            p.copy_(0.2 * torch.randn(p.shape))
    return dit.eval()


@pytest.fixture
def tokens() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two clips of eight tokens, their noise levels and no text: words have no position that a
    distance could be from."""
    return torch.randn(2, 8, 4), torch.rand(2), torch.empty(2, 0, 32)


SMALL = {"size": "tiny", "channels": 4, "patch": (1, 1, 1), "text_width": 32, "pooled": False}


@pytest.mark.parametrize(
    ("kind", "same"), [(DiT, False), (NoPositionEmbedding, True)], ids=["DiT", "variant"]
)
def test_without_position_embedding_only_distances_count(kind, same: bool, tokens) -> None:
    dit, here = stirred(kind(**SMALL)), positions((2, 2, 2))  # (N, 5)
    moved = dit(*tokens, here + torch.tensor([2, 2, 2, 0, 0]))
    assert torch.allclose(dit(*tokens, here), moved, atol=1e-5) is same


@pytest.mark.parametrize(
    ("kind", "same"), [(DiT, False), (NoRotations, True)], ids=["DiT", "variant"]
)
def test_without_rotations_attention_sees_no_distances(kind, same: bool, tokens) -> None:
    dit, here = stirred(kind(**SMALL)), positions((2, 2, 2))
    for layer in (dit.position_embed, dit.scale_embed):  # the other ways to see positions
        torch.nn.init.zeros_(layer.weight)
    assert torch.allclose(dit(*tokens, here), dit(*tokens, here.flip(0)), atol=1e-5) is same


@pytest.mark.parametrize("kind", [NoRotations, NoPositionEmbedding])
def test_a_trained_variant_is_loaded_as_one(kind, tiny: Run, folder: Path) -> None:
    flags = (*TINY, "--model.dit", f"{kind.__module__}.{kind.__name__}")
    bundle = runs.train("recipe", replace(tiny, flags=flags), seed=0, steps=2)
    dit = Sora.from_pretrained(bundle, "cpu").dit
    embedded = [*dit.position_embed.parameters(), *dit.scale_embed.parameters()]
    off = [dit.frequencies] if kind is NoRotations else embedded
    assert type(dit) is kind
    assert not any(part.any() for part in off)


# Rescaled latents


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_powers_of_deviations_keep_the_mean_square(power: float) -> None:
    deviations = torch.tensor([2.0, 1.0, 0.5])
    scaled = recipe.power_scale(deviations, power) * deviations
    assert torch.allclose(scaled / scaled[1], deviations**power)
    assert torch.isclose(scaled.square().mean(), deviations.square().mean())


@pytest.mark.parametrize("power", [0.0, 2.0])
def test_a_rescaled_vae_decodes_to_the_same_pixels(power: float, tmp_path: Path) -> None:
    vae, rescaled = (weights.load(weights.shipped(), "vae", VAE) for _ in range(2))
    deviations = recipe.channel_deviations(vae, clips=20)
    scale = recipe.power_scale(deviations, power)
    recipe.rescale_channels(rescaled, scale)
    assert torch.allclose(recipe.channel_deviations(rescaled, 20), scale * deviations, rtol=1e-4)
    video = to_pixels(world.clip(0, 0).frames[None])
    pixels = vae.decode(vae.encode(video))
    assert torch.allclose(rescaled.decode(rescaled.encode(video)), pixels, atol=1e-4)
    noise = rescaled.posterior(video)[1] - vae.posterior(video)[1]  # log-variances
    assert torch.allclose(
        noise, (2 * scale.log()).view(1, -1, 1, 1, 1).expand_as(noise), atol=1e-4
    )
    weights.save(tmp_path, {}, vae=rescaled)
    stored = weights.load(tmp_path, "vae", VAE)  # rounded to bfloat16
    error = stored.decode(stored.encode(video)) - pixels
    assert error.square().mean().sqrt() < 0.01


# Captions


@pytest.mark.parametrize("kind", ["human", "synthetic", "true"])
def test_caption_files_fit_the_training_clips(kind: str, folder: Path, small_vae: Path) -> None:
    path = recaption.captions_file(kind, seed=1, clips=16)
    data = ClipData(Latents(str(small_vae), captions=str(path)), clips=16, seed=1)
    data.setup("fit")
    written = read_captions(str(path))[1]
    assert data.view.captions == [dict.fromkeys((17, 1, 5, 9, 13), text) for text in written]


def test_recaptioning_trains_on_each_kind_of_captions(folder: Path) -> None:
    truth = [world.clip(0, index).caption for index in range(64)]
    human, synthetic, true = (
        read_captions(str(recaption.captions_file(kind, seed=0, clips=64)))[1]
        for kind in ("human", "synthetic", "true")
    )
    assert true == truth
    assert not set(human) & set(truth)
    assert np.mean([a == b for a, b in zip(synthetic, truth, strict=True)]) > 0.8


def test_other_captions_are_another_file(folder: Path) -> None:
    paths = [runs.write_captions(0, lambda *_, word=word: word, clips=2) for word in "aba"]
    assert paths[0] == paths[2] != paths[1]


def test_half_of_the_captions_are_said_in_other_words(folder: Path) -> None:
    path = paraphrases.half_worded(seed=0, clips=200)
    said = read_captions(str(path))[1]
    own = [said[index] == world.clip(0, index).caption for index in range(200)]
    assert 0.4 < np.mean(own) < 0.6
    assert path == paraphrases.half_worded(seed=0, clips=200)  # the same words again


def test_bare_captions_have_no_function_words() -> None:
    caption = "a red circle growing on a black background"
    assert recipe.bare(caption) == "red circle growing black"


# Scores and results


def test_scores_are_percent_right_of_what_was_asked(eight_clips) -> None:
    right = Playback(frames_of(eight_clips))
    assert set(runs.score(right, eight_clips).values()) == {100.0}
    assert right.prompts == [clip.caption for clip in eight_clips]
    assert runs.score(Playback(frames_of(eight_clips[::-1])), eight_clips)["all"] == 0


def test_prompts_and_sampling_can_differ(eight_clips) -> None:
    model = Playback(frames_of(eight_clips))
    runs.score(model, eight_clips, recipe.bare, {"shift": 3.0})
    assert model.prompts == [recipe.bare(clip.caption) for clip in eight_clips]
    assert model.defaults == {"shift": 3.0}


@pytest.mark.parametrize("name", ["shapes", "pairs"])
def test_clips_for_scores_are_held_out(name: str) -> None:
    clip = runs.fresh_clips(1, name)[0]
    objects = clip.truth.get("objects", [clip.truth])
    assert clip.world == name
    assert any((one["shape"], one["color"]) in world.HELD_OUT for one in objects)


def test_a_trained_run_is_scored(tiny: Run, folder: Path, eight_clips) -> None:
    bundle = runs.train("recipe", tiny, seed=0, steps=2)
    scores = runs.score(bundle, eight_clips[:2])
    assert {"shape", "color", "motion", "size", "background", "clean", "all"} == set(scores)
    assert all(0 <= percent <= 100 for percent in scores.values())


def test_results_are_kept_and_not_measured_again(tmp_path: Path) -> None:
    measured = []

    def measure(run: Run, seed: int) -> dict[str, Any]:
        measured.append((run.slug, seed))
        return {"all": 1.0}

    results, rows = tmp_path / "results.jsonl", [Run("a", "A"), Run("b", "B")]
    for seeds in ([0], [0, 1], [0, 1]):
        runs.fill(results, rows, seeds, {"steps": 7}, measure)
    assert measured == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    runs.fill(results, rows[:1], [0], {"steps": 9}, measure)  # another length: another run
    assert measured[4:] == [("a", 0)]
    assert [row["seed"] for row in runs.found(results, run="a", steps=7)] == [0, 1]


def test_results_are_sorted_by_seed(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    for seed in (1, 0):  # two processes end in any order
        runs.keep(results, seed=seed)
    assert [row["seed"] for row in runs.found(results)] == [0, 1]


def test_runs_are_chosen_by_their_slugs() -> None:
    assert [run.slug for run in runs.chosen(binding.RUNS, ["attention"])] == ["attention"]
    assert runs.chosen(binding.RUNS, []) == binding.RUNS


def test_a_change_of_sampling_shares_the_baseline(tmp_path: Path, monkeypatch) -> None:
    trained, sampled = [], []

    def score(_: str, __: Any, prompt: Any, sampling: dict[str, Any]) -> dict[str, float]:
        sampled.append(sampling)
        return dict.fromkeys(("motion", "shape", "clean", "all"), 50.0)

    monkeypatch.setattr(runs, "train", lambda _, run, *__: trained.append(run.slug))
    monkeypatch.setattr(recipe, "score", score)
    only, results = ["baseline", "batch-64", "no-guidance"], tmp_path / "results.jsonl"
    table = recipe.run([0], 2100, 1, only, results).splitlines()
    assert trained == ["baseline", "batch-64", "baseline"]
    assert sampled == [{}, {}, {"guidance_scale": 1.0}]
    assert table[2:] == [
        "| baseline | 2100 | 50% | 50% | 50% | 50% | 50.0 |",
        "| batch size 64 | 1256 | 50% | 50% | 50% | 50% | 50.0 |",
        "| no guidance | 2100 | 50% | 50% | 50% | 50% | 50.0 |",
    ]


@pytest.mark.parametrize("name", MODULES)
def test_stored_results_are_of_known_runs(name: str) -> None:
    slugs = {run.slug for run in MODULES[name].RUNS}
    assert {row["run"] for row in runs.found(MODULES[name].RESULTS)} <= slugs


@pytest.mark.parametrize(
    ("name", "lines"), [("recipe", 37), ("binding", 8), ("recaption", 9), ("paraphrases", 6)]
)
def test_stored_results_make_the_tables(name: str, lines: int) -> None:
    rows = runs.found(MODULES[name].RESULTS)
    seeds = [[0, 1, 2]] if name in ("recaption", "paraphrases") else []
    table = MODULES[name].table(rows, *seeds)
    assert len(table.splitlines()) == 2 + lines
    assert all(run.label in table for run in MODULES[name].RUNS)


def test_a_seed_that_was_not_run_is_a_dash() -> None:
    scores = dict.fromkeys(("steps", "motion", "shape", "clean", "all"), 4.0)
    rows = [{"run": "baseline", "seed": 0, **scores}, {"run": "baseline", "seed": 1, **scores}]
    rows += [{"run": "heun", "seed": 1, **scores | {"all": all}} for all in (1.0, 2.0)]
    table = recipe.table(rows).splitlines()
    assert table[2].endswith("| 4.0, 4.0 |")
    assert table[3].endswith("| -, 2.0 |")  # of two results the later one


# What counts as right


def test_what_a_short_prompt_names_has_to_be_right() -> None:
    read = world.describe(world.clip(0, 0).frames)
    assert language.named_right(f"a {read['shape']}", read)
    assert language.named_right(f"{read['color']} {read['shape']} {read['motion']}", read)
    other = "star" if read["shape"] != "star" else "cross"
    assert not language.named_right(other, read)
    assert not language.named_right(read["shape"], read | {"clean": False})


def test_intervals_of_paired_gains() -> None:
    rng = np.random.default_rng(1)
    gains = rng.choice([-1, 0, 1], size=(3, 400), p=[0.1, 0.6, 0.3])
    low, high = runs.interval(gains)
    assert low < 20 < high and high - low < 16
    assert runs.interval(np.zeros((3, 10))) == (0, 0)


def test_answers_are_judged_by_what_the_prompt_names(eight_clips) -> None:
    right = recaption.answers(Playback(frames_of(eight_clips)), eight_clips)
    assert right == {kind: [1] * 8 for kind in ("rich", "short", "upsampled")}
    wrong = recaption.answers(Playback(frames_of(eight_clips[::-1])), eight_clips)
    assert sum(wrong["rich"]) == 0


def test_the_table_of_captions() -> None:
    right = {kind: [1] * 8 for kind in recaption.PROMPTS}
    rows = [{"run": arm.slug, "seed": 0, **right} for arm in recaption.RUNS]
    table = recaption.table(rows, [0]).splitlines()
    assert table[2] == "| human captions | rich | 100.0% | 100.0 |  |"
    assert table[3] == ("| 95% synthetic captions | rich | 100.0% | 100.0 | +0.0 (+0.0 to +0.0) |")
    assert len(table) == 2 + 9


def test_a_table_of_some_runs_has_no_gain() -> None:
    rows = [{"run": "true", "seed": 0, "rich": [1, 0], "short": [0, 0], "upsampled": [1, 1]}]
    assert (
        recaption.table(rows, [0]).splitlines()[2] == "| true captions | rich | 50.0% | 50.0 |  |"
    )


# Other words


@pytest.fixture
def paraphrased(monkeypatch) -> Iterator[tuple[dict[str, Any], list[world.Clip]]]:
    """Answers to eight captions, each with its own clip, and to eight paraphrases that name the
    shape only, each with the clip before; and the clips."""
    clips = [world.clip(0, index) for index in range(8)]
    texts = [f"a {clip.truth['shape']} {index}" for index, clip in enumerate(clips)]
    pairs = [(text, clip.caption) for text, clip in zip(texts, clips, strict=True)]
    monkeypatch.setattr(paraphrases, "TIMES", 1)
    monkeypatch.setattr(paraphrases, "phrases", lambda: pairs)
    model = Playback(frames_of([*(clips[index - 1] for index in range(8)), *clips]))
    yield json.loads(json.dumps(paraphrases.answers(model))), clips


def test_paraphrases_are_judged_attribute_by_attribute(paraphrased) -> None:
    answers, clips = paraphrased
    assert all(set(right) == {1} for right in answers["captions"].values())
    alike = [clips[i].truth["color"] == clips[i - 1].truth["color"] for i in range(8)]
    assert answers["paraphrases"]["color"] == alike
    assert not all(alike)


def test_an_attribute_counts_where_it_is_named_in_another_word(paraphrased) -> None:
    answers, clips = paraphrased
    assert paraphrases.shares([answers] * 2, "captions")["shape"].shape == (2, 8)
    assert paraphrases.shares([answers], "paraphrases")["shape"].shape == (1, 0)  # the same word
    named = sum(clip.truth["size"] is not None for clip in clips)
    assert paraphrases.shares([answers], "paraphrases")["size"].shape == (1, named) != (1, 8)


def test_the_table_of_paraphrases() -> None:
    count = len(paraphrases.phrases())
    every = {name: [paraphrases.TIMES] * count for name in (*world.ATTRIBUTES, "clean", "all")}
    scores = {"captions": every, "paraphrases": every | {"all": [0] * count}}
    rows = [{"run": reader.slug, "seed": 0, "steps": 7, **scores} for reader in paraphrases.RUNS]
    table = paraphrases.table(rows, [0]).splitlines()
    assert table[2] == (
        "| own vocabulary, as shipped | 7 | captions |"
        + " 100% |" * 5
        + " 100.0% (100.0 to 100.0) | 100.0 |"
    )
    assert table[3].endswith("| 0.0% (0.0 to 0.0) | 0.0 |")
    assert len(table) == 8


def test_the_shipped_model_is_asked_without_training(tmp_path: Path, monkeypatch) -> None:
    count = len(paraphrases.phrases())
    every = {name: [1] * count for name in (*world.ATTRIBUTES, "clean", "all")}
    monkeypatch.setattr(
        paraphrases, "answers", lambda *_: {"captions": every, "paraphrases": every}
    )
    table = paraphrases.run([0], 7, 1, ["shipped"], tmp_path / "results.jsonl").splitlines()
    assert table[2].startswith("| own vocabulary, as shipped | 0 | captions | 25% |")


def test_paraphrases_mean_captions_and_say_them_in_other_words() -> None:
    pairs = paraphrases.phrases()
    assert len(pairs) >= 40
    for paraphrase, caption in pairs:
        meant = shapes.parse(caption)
        assert world.caption(meant) == caption, caption
        named = {name for name, word in shapes.parse(paraphrase).items() if word}
        assert named != {name for name, word in meant.items() if word}, paraphrase


def test_every_word_of_captions_has_other_words() -> None:
    values = {*shapes.COLORS, *shapes.SHAPES, *shapes.SIZES, *shapes.BACKGROUNDS, *shapes.MOTIONS}
    assert set(paraphrases.wordings()) == values


def test_other_words_mean_the_same() -> None:
    words, rng = paraphrases.wordings(), np.random.default_rng(0)
    for index in range(50):
        caption = world.clip(0, index, num_frames=1 + 16 * (index % 2)).caption
        said = paraphrases.worded(caption, words, rng)
        for value in filter(None, shapes.parse(caption).values()):
            assert any(other in said for other in words[value]), (caption, said)


def test_training_texts_have_no_words_of_the_paraphrases() -> None:
    words = paraphrases.wordings().values()
    texts = [*paraphrases.FORMS, *(other for others in words for other in others)]
    asked = [paraphrase for paraphrase, _ in paraphrases.phrases()]
    trained_words, asked_words = (
        set(re.findall("[a-z]+", " ".join(each).lower())) for each in (texts, asked)
    )
    # "size" is a field of a form
    assert (trained_words & asked_words) - world.WORDS <= {"the", "size"}


# Going on from known frames


@pytest.fixture
def tiny_bundle(tiny_sora: Sora, tmp_path: Path) -> Path:
    tiny_sora.defaults = tiny_sora.defaults | {"num_frames": 17}
    tiny_sora.save(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.filterwarnings("ignore:not trained on")
def test_every_way_to_go_on_gets_a_line(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(going_on, "SECONDS", 3)
    table = going_on.run([0], 0, 2, [], tmp_path / "results.jsonl", tiny_bundle)
    assert all(f"| {way.label} |" in table for way in going_on.RUNS)


@pytest.mark.usefixtures("in_float32")
@pytest.mark.filterwarnings("ignore:not trained on")
@pytest.mark.parametrize("way", [w for w in going_on.WAYS if "-" not in w])
def test_every_way_gives_back_what_is_known(tiny_bundle: Path, way: str) -> None:
    sora = going_on.WAYS[way].model.from_pretrained(tiny_bundle, "cpu")
    clip = world.clip(0, 0, 9).frames
    made = sora.extend(clip, "a red circle", 17, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(made[0, :9], clip)


@pytest.mark.usefixtures("in_float32")
@pytest.mark.filterwarnings("ignore:not trained on")
def test_a_context_without_noise_is_the_usual_one(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(going_on.NoisyContext, "level", 0.0)
    clip = world.clip(0, 0, 9).frames
    a, b = (
        kind.from_pretrained(tiny_bundle, "cpu").extend(
            clip, "a red circle", 17, generator=torch.Generator().manual_seed(0)
        )
        for kind in (Sora, going_on.NoisyContext)
    )
    assert np.abs(a.astype(int) - b).max() <= 1


def test_noise_that_is_added_again_has_the_variance_of_its_level(tiny_sora: Sora) -> None:
    """From level 0.4 back to 0.8: the noise of a clip of zeros has standard deviation 0.8."""
    low, high = torch.tensor(0.4), torch.tensor(0.8)
    model = going_on.Replacing(
        tiny_sora.vae, tiny_sora.text, tiny_sora.dit, tiny_sora.trained_on, tiny_sora.defaults
    )
    x = low * torch.randn(1, 10_000, 4)
    settings = Settings(generator=torch.Generator().manual_seed(0))
    assert model.renoised(x, low, high, settings).std() == pytest.approx(0.8, abs=0.01)
