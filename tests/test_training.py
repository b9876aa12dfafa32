"""Training as users run it, through `minisora fit` with the tiny configs."""

import csv
import json
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from conftest import fit, keep_checkpoints, shake
from safetensors.torch import load_file

from minisora import InputError, Sora, world
from minisora.canvas import MODES
from minisora.captioner import Captioner
from minisora.dit import DiT
from minisora.dit_training import DiTTraining, Noised
from minisora.language_training import in_false_colors, shift_clips
from minisora.text import TextEncoder
from minisora.training import VAETraining
from minisora.upsampler import Upsampler
from minisora.vae import VAE


def losses(root: Path, stage: str) -> dict[int, str]:
    """The loss of each step, as it stands in metrics.csv."""
    name = "words" if stage == "captioner" else "loss"
    with open(root / stage / "metrics.csv") as file:
        return {int(row["step"]): row[name] for row in csv.DictReader(file) if row[name]}


def checkpoint(folder: Path, step: int) -> str:
    """The argument of `fit` that resumes from a step."""
    return f"--ckpt_path={next(folder.glob(f'*step={step}.ckpt'))}"


def networks(root: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The transformer and the text encoder that a run exported."""
    sora = Sora.from_pretrained(root / "dit" / "weights", "cpu")
    return sora.dit, sora.text


# A transformer


def test_every_step_is_logged(trained: Path) -> None:
    assert list(losses(trained, "dit")) == list(range(60))


def test_the_loss_falls(trained: Path) -> None:
    curve = [float(loss) for loss in losses(trained, "dit").values()]
    assert sum(curve[-10:]) < 0.9 * sum(curve[:10])


def test_the_exported_model_samples(trained: Path) -> None:
    clip = Sora.from_pretrained(trained / "dit" / "weights")("a red circle")
    assert clip.shape == (1, 17, 32, 32, 3)


def test_the_exported_model_says_what_it_was_trained_on(trained: Path) -> None:
    assert Sora.from_pretrained(trained / "dit" / "weights").trained_on == {
        "worlds": ["shapes"],  # the share of pairs is 0
        "sizes": [[32, 32]],
        "durations": [1, 5, 9, 13, 17],
        "modes": ["text"],
        "fps": 8,
    }


def test_the_exported_weights_are_the_average(trained: Path) -> None:
    state = torch.load(next((trained / "kept").glob("*step=60.ckpt")), weights_only=False)
    averaged = state["state_dict"]["dit.head.weight"]
    live = state["current_model_state"]["dit.head.weight"]
    exported = networks(trained)[0].head.weight
    assert torch.equal(exported, averaged.bfloat16().float())
    assert not torch.equal(averaged, live)


def test_samples_are_written_at_every_validation(trained: Path) -> None:
    names = [path.name for path in sorted((trained / "dit" / "samples").glob("*.mp4"))]
    assert names == ["step-000030.mp4", "step-000060.mp4"]


# Any size and length, with known tokens

ANY = [
    "--data.sizes=[[32,32],[16,24]]",
    "--data.view.lengths={1: 0.3, 5: 0.2, 17: 0.5}",
    "--data.view.known=0.5",
    "--model.base_tokens=80",
    "--trainer.max_steps=10",
    "--trainer.val_check_interval=10",
]


@pytest.fixture(scope="module")
def generalist(on_vae: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer for clips of all sizes, lengths and modes, with the checkpoints of steps 5 and
    10 in kept/."""
    root = tmp_path_factory.mktemp("generalist")
    fit("dit", root, on_vae, *ANY, *keep_checkpoints(root / "kept", 5))
    return root


def test_a_generalist_says_what_it_was_trained_on(generalist: Path) -> None:
    assert Sora.from_pretrained(generalist / "dit" / "weights").trained_on == {
        "worlds": ["shapes"],
        "sizes": [[32, 32], [16, 24]],
        "durations": [1, 5, 17],
        "modes": ["text", *(name for name, mode in MODES.items() if mode.share)],
        "fps": 8,
    }


def test_a_generalist_says_how_it_samples(generalist: Path) -> None:
    defaults = Sora.from_pretrained(generalist / "dit" / "weights").defaults
    assert defaults["base_tokens"] == 80
    assert defaults["num_frames"] == 17


def test_a_generalist_animates(generalist: Path) -> None:
    image = world.clip(0, 0, 1, 16, 24).frames[0]
    clip = Sora.from_pretrained(generalist / "dit" / "weights").animate(image, "a red circle", 5)
    assert np.array_equal(clip[0, 0], image)
    assert clip.shape == (1, 5, 16, 24, 3)


def test_a_generalist_is_resumed_to_the_bit(generalist: Path, on_vae: str, tmp_path: Path) -> None:
    fit("dit", tmp_path, on_vae, *ANY, checkpoint(generalist / "kept", 5))
    whole, resumed = losses(generalist, "dit"), losses(tmp_path, "dit")
    assert list(resumed) == list(range(10))
    assert resumed == whole


def test_packed_clips_train_too(on_vae: str, tmp_path: Path) -> None:
    few = "--trainer.max_steps=3", "--trainer.val_check_interval=3"
    packed = "--data.view.packed=true", "--model.token_drop=0.3"
    fit("dit", tmp_path, on_vae, *ANY, *few, *packed)
    assert len(losses(tmp_path, "dit")) == 3


# The other networks


def bundle_of(root: Path) -> dict[str, torch.Tensor]:
    return load_file(root / "vae" / "weights" / "vae.safetensors")


@pytest.fixture(scope="module")
def decoders(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The tensors of a VAE, and those after a training that keeps its encoder: bfloat16."""
    root = tmp_path_factory.mktemp("decoder")
    wide = "--model.vae.decoder_width=24", "--model.vae.decoder_depth=2"
    fit("vae", root, f"--model.encoder={trained}/vae/weights", *wide)
    return [bundle_of(trained), bundle_of(root)]


def test_a_kept_encoder_stays_the_same_to_the_bit(decoders: list[dict]) -> None:
    before, after = decoders
    names = [name for name in before if name.startswith("encode")]
    assert len(names) > 8
    assert all(torch.equal(before[name], after[name]) for name in names)


def test_its_decoder_is_trained(decoders: list[dict]) -> None:
    before, after = decoders
    assert not torch.equal(before["decode_linear.weight"], after["decode_linear.weight"])
    assert after["decoder.4.weight"].any()  # the last layer, which starts at zero


def test_its_decoder_may_be_larger_than_the_encoder(decoders: list[dict]) -> None:
    _, after = decoders
    assert len(after["encoder.0.bias"]) == 16
    assert len(after["decoder.0.bias"]) == 24


def test_only_the_decoder_is_given_to_the_optimizer(trained: Path) -> None:
    vae = VAE(channels=16, space=8, width=16, depth=1)
    module = VAETraining(vae, encoder=str(trained / "vae" / "weights"))
    groups = module.optimizer().param_groups
    stepped = {id(p) for group in groups for p in group["params"]}
    names = {name.split(".")[0] for name, p in vae.named_parameters() if id(p) in stepped}
    assert names == {"decode_linear", "decoder"}


def test_an_encoder_of_another_form_is_refused(trained: Path) -> None:
    with pytest.raises(InputError, match="another encoder: its channels is 16, not 8"):
        VAETraining(VAE(space=8, width=16, depth=1), encoder=str(trained / "vae" / "weights"))


def test_a_captioner_is_trained(trained: Path, on_vae: str, tmp_path: Path) -> None:
    fit("captioner", tmp_path, on_vae)
    captioner = Captioner.from_pretrained(tmp_path / "captioner" / "weights", "cpu")
    (caption,) = captioner(world.clip(0, 0).frames[None])
    assert set(caption.split()) <= world.WORDS
    curve = [float(loss) for loss in losses(tmp_path, "captioner").values()]
    assert len(curve) == 20
    assert curve[-1] < curve[5]


def test_an_upsampler_is_trained(tmp_path: Path) -> None:
    fit("upsampler", tmp_path)
    upsampler = Upsampler.from_pretrained(tmp_path / "upsampler" / "weights")
    (drawn,) = upsampler.draw(["red circle"])
    assert set(drawn.split()) <= world.WORDS
    curve = [float(loss) for loss in losses(tmp_path, "upsampler").values()]
    assert len(curve) == 20
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])


# Starting from trained weights


@pytest.fixture
def started(trained: Path, on_vae: str, tmp_path: Path) -> Path:
    """A run on two worlds that starts from the model of one, with learning rates of zero."""
    fit(
        "dit",
        tmp_path,
        on_vae,
        f"--model.start={trained / 'dit' / 'weights'}",
        "--model.lr=0",
        "--model.adam_lr=0",
        '--data.worlds={"pairs": 0.5, "shapes": 0.5}',
        "--data.validation_clips=16",
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=4",
    )
    return tmp_path


def test_a_run_starts_from_trained_weights(started: Path, trained: Path) -> None:
    for mine, theirs in zip(networks(started), networks(trained), strict=True):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_a_run_on_two_worlds_is_trained_on_both(started: Path) -> None:
    sora = Sora.from_pretrained(started / "dit" / "weights", "cpu")
    assert sora.trained_on["worlds"] == ["pairs", "shapes"]


def test_scores_of_two_worlds_are_kept_apart(started: Path) -> None:
    record = json.loads((started / "dit" / "weights" / "provenance.json").read_text())["dit"]
    (point,) = record["curve"]
    names = {"val-shapes/all", "ceiling-shapes/all", "val-pairs/relation", "ceiling-pairs/all"}
    assert names <= point.keys()


OLD_WORDS, NEW_WORDS = ["circle", "red", "a"], ["a", "big", "blue", "circle", "red"]


@pytest.fixture
def old(tmp_path: Path) -> Sora:
    """A trained model of few words, as it is loaded from its bundle."""
    text = shake(TextEncoder(OLD_WORDS, width=32, depth=1))
    dit = shake(DiT("tiny", channels=4, patch=(1, 1, 1), text_width=32))
    vae = shake(VAE(channels=4, space=8, width=16, depth=1))
    trained_on = {"worlds": ["shapes"], "sizes": [[32, 32]], "durations": [17], "modes": ["text"]}
    defaults = {"num_inference_steps": 2, "guidance_scale": 2.0, "shift": 1.0, "sampler": "euler"}
    Sora(vae, text, dit, trained_on | {"fps": 8}, defaults).save(tmp_path)
    return Sora.from_pretrained(tmp_path, "cpu")


@pytest.fixture
def taught(old: Sora, tmp_path: Path) -> DiTTraining:
    """A training that starts from it, with more words."""
    dit = DiT("tiny", channels=4, patch=(1, 1, 1), text_width=32)
    text = TextEncoder(NEW_WORDS, width=32, depth=1)
    return DiTTraining(text, dit, start=str(tmp_path)).eval()


def row(text: TextEncoder, word: str) -> torch.Tensor:
    """The embedding of a word."""
    (tokens,) = text.tokenize([word])
    return text.embedding.weight[tokens[0]]


@pytest.mark.parametrize("word", OLD_WORDS)
def test_old_words_keep_their_embeddings(taught: DiTTraining, old: Sora, word: str) -> None:
    assert torch.equal(row(taught.text, word), row(old.text, word))


def test_new_words_get_embeddings_of_their_own(taught: DiTTraining) -> None:
    rows = {tuple(row(taught.text, word).tolist()) for word in NEW_WORDS}
    assert len(rows) == 5
    assert taught.text.unknown("a big blue circle") == []


def test_the_words_of_both_are_read(taught: DiTTraining) -> None:
    assert sorted(taught.text.vocabulary) == NEW_WORDS


def test_old_prompts_are_read_as_before(taught: DiTTraining, old: Sora) -> None:
    prompts = ["a red circle", ""]
    assert torch.equal(taught.text(prompts), old.text(prompts))


def test_old_prompts_give_the_same_clips(taught: DiTTraining, old: Sora, in_float32: None) -> None:
    new = Sora(old.vae, taught.text, taught.dit, old.trained_on, old.defaults)
    clips = (
        sora("a red circle", generator=torch.Generator().manual_seed(0)) for sora in (old, new)
    )
    assert np.array_equal(*clips)


def test_words_that_the_data_lacks_are_kept(old: Sora, tmp_path: Path) -> None:
    dit = DiT("tiny", channels=4, patch=(1, 1, 1), text_width=32)
    module = DiTTraining(TextEncoder(["blue"], width=32, depth=1), dit, start=str(tmp_path))
    assert module.text.unknown("a red circle blue") == []


# Resuming


def test_resuming_repeats_the_uninterrupted_run_to_the_bit(
    trained: Path, on_vae: str, tmp_path: Path
) -> None:
    fit("dit", tmp_path, on_vae, checkpoint(trained / "kept", 30))
    whole, resumed = losses(trained, "dit"), losses(tmp_path, "dit")
    assert list(resumed) == list(range(60))
    assert resumed == whole
    for ours, theirs in zip(networks(trained), networks(tmp_path), strict=True):
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize(
    ("stage", "accumulated"), [("vae", 1), ("captioner", 1), ("upsampler", 2)]
)
def test_resuming_the_other_stages_too(
    stage: str, accumulated: int, on_vae: str, tmp_path: Path
) -> None:
    """Also where a step gathers the gradients of two batches."""
    options = [on_vae] if stage == "captioner" else []
    options += [f"--trainer.accumulate_grad_batches={accumulated}"]
    fit(stage, tmp_path / "whole", *options, *keep_checkpoints(tmp_path / "kept", 10))
    resume = checkpoint(tmp_path / "kept", 10)
    fit(stage, tmp_path / "resumed", *options, resume, "--trainer.max_epochs=1")
    whole, resumed = losses(tmp_path / "whole", stage), losses(tmp_path / "resumed", stage)
    assert list(resumed) == list(range(20))
    assert resumed == whole


def test_last_is_the_newest_checkpoint_of_the_folder(tmp_path: Path) -> None:
    """As it is written without a word about checkpoints."""
    fit("upsampler", tmp_path)
    whole = losses(tmp_path, "upsampler")
    (tmp_path / "upsampler" / "checkpoints" / "step=20.ckpt").unlink()
    fit("upsampler", tmp_path, "--ckpt_path=last")
    assert losses(tmp_path, "upsampler") == whole


def test_a_checkpoint_of_the_last_step_is_exported(
    trained: Path, on_vae: str, tmp_path: Path
) -> None:
    """A run that was killed after its last checkpoint has nothing left to train."""
    fit("dit", tmp_path, on_vae, checkpoint(trained / "kept", 60))
    for name in ("dit", "text"):
        file = f"dit/weights/{name}.safetensors"
        assert (tmp_path / file).read_bytes() == (trained / file).read_bytes()


def test_a_run_that_ends_early_says_that_it_wrote_no_weights(
    on_vae: str, tmp_path: Path, capsys
) -> None:
    fit("dit", tmp_path, on_vae, "--trainer.max_time=00:00:00:00")
    expected = "of 60 steps, so no weights are written: resume with --ckpt_path"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "dit" / "weights").exists()


@pytest.mark.parametrize("resumed", [False, True], ids=["from the start", "from the last step"])
def test_a_trial_run_leaves_nothing_behind(
    resumed: bool, trained: Path, on_vae: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "metrics.csv"
    log.write_text("of somebody else")
    options = [checkpoint(trained / "kept", 60)] if resumed else []
    fit("dit", tmp_path, on_vae, "--trainer.fast_dev_run=true", *options)
    assert list(tmp_path.rglob("*")) == [log]


# The parts of a step


@pytest.fixture
def module() -> DiTTraining:
    dit = DiT("tiny", channels=4, patch=(1, 1, 1), text_width=32)
    return DiTTraining(TextEncoder(["red"], width=32, depth=1), dit)


@pytest.fixture
def known() -> torch.Tensor:
    """Of 3000 clips of six tokens each, two are known."""
    return torch.tensor([True, True, False, False, False, False]).expand(3000, 6)


def levels(module: DiTTraining, known: torch.Tensor | None, tokens: int = 6) -> torch.Tensor:
    """Noise levels of 3000 clips: (3000, tokens)."""
    generator = torch.Generator().manual_seed(0)
    return module.levels(torch.zeros(3000, tokens, 4), known, generator)


def test_known_tokens_are_clean_in_four_of_five_clips(module: DiTTraining, known) -> None:
    clean = (levels(module, known)[:, :2] == 0).all(1).float().mean()
    assert abs(clean - 0.8) < 0.03


def test_known_tokens_are_slightly_noisy_in_the_others(module: DiTTraining, known) -> None:
    noisy = levels(module, known)[:, :2]
    noisy = noisy[noisy > 0]
    assert noisy.max() < 0.1
    assert abs(noisy.mean() - 0.05) < 0.005


@pytest.mark.parametrize("tokens", [slice(0, 2), slice(2, 6)], ids=["known", "unknown"])
def test_tokens_of_a_kind_share_the_level_of_their_clip(
    module: DiTTraining, known, tokens: slice
) -> None:
    t = levels(module, known)[:, tokens]
    assert torch.equal(t, t[:, :1].expand_as(t))


def test_clips_have_levels_of_their_own(module: DiTTraining, known) -> None:
    assert len(levels(module, known)[:, 5].unique()) > 2900


def test_what_is_known_does_not_change_the_level_of_the_rest(module: DiTTraining, known) -> None:
    assert torch.equal(levels(module, known)[:, 2:], levels(module, None)[:, 2:])


def test_clips_of_more_tokens_get_more_noise() -> None:
    """As a shift by the square root of how many more they are does it in sampling."""
    dit = DiT("tiny", channels=4, patch=(1, 1, 1), text_width=32)
    module = DiTTraining(TextEncoder(["red"], width=32), dit, base_tokens=6)
    usual, long = levels(module, None), levels(module, None, tokens=24)
    assert torch.allclose(long[:, 0].logit(), usual[:, 0].logit() + np.log(2), atol=1e-4)


def test_usual_clips_get_the_usual_noise(module: DiTTraining) -> None:
    dit = DiT("tiny", channels=4, patch=(1, 1, 1), text_width=32)
    same = DiTTraining(TextEncoder(["red"], width=32), dit, base_tokens=6)
    assert torch.equal(levels(same, None), levels(module, None))


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def batch() -> dict:
    """A clip for each mode, of 3 x 2 x 2 latents. Those that may begin inside a longer clip do."""
    modes = list(MODES)
    start = torch.tensor([int(MODES[mode].anywhere) for mode in modes])
    latents = torch.randn(len(modes), 4, 3, 2, 2)
    return {"latents": latents, "modes": modes, "start": start}


def noised(module: DiTTraining, batch: dict) -> Noised:
    return module.noised(batch["latents"], batch["modes"], batch["start"], drawn())


def test_clean_known_tokens_are_those_of_the_clip(module: DiTTraining, batch: dict) -> None:
    made = noised(module, batch)
    clean = made.known & (made.t == 0)
    assert clean.sum() > 10
    assert torch.equal(made.x[clean], made.tokens[clean])


def test_from_text_nothing_is_known(module: DiTTraining, batch: dict) -> None:
    assert not noised(module, batch).known[0].any()
    assert noised(module, batch | {"modes": ["text"] * len(MODES)}).known is None


def test_windows_that_begin_inside_a_clip_count_from_its_second_group(
    module: DiTTraining, batch: dict
) -> None:
    first = noised(module, batch).positions[:, 0]  # (B, 5)
    assert torch.equal(first[:, 0], batch["start"].float())
    assert torch.equal(first[:, 1:], first[:1, 1:].expand(len(MODES), 4))


def test_known_tokens_teach_nothing(module: DiTTraining, batch: dict) -> None:
    """The gradient is exactly zero at the known tokens of the network's output, and only there."""
    outputs = []
    module.dit.register_forward_hook(lambda *call: outputs.append(call[-1]))
    loss = module.losses(batch, module.text(["red"] * len(MODES)), drawn()).sum()
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert torch.equal((gradient == 0).all(-1), noised(module, batch).known)


@pytest.fixture
def clips(batch: dict) -> dict:
    """Clips of other shapes, as a packed row has them."""
    shapes = [
        (1, 2, 2),
        (3, 2, 3),
        (3, 1, 1),
        (2, 2, 2),
        (4, 2, 1),
        (3, 2, 2),
        (2, 3, 1),
        (3, 3, 3),
    ]
    return batch | {"latents": [torch.randn(4, *shape) for shape in shapes]}


def test_a_packed_row_has_the_losses_of_its_clips_alone(module: DiTTraining, clips: dict) -> None:
    """A token attends to its own clip and text only."""
    shake(module)
    text, generator = module.text(["red", ""] * 4), drawn()
    alone = [
        module.losses(
            {"latents": z[None], "modes": [mode], "start": start[None]}, text[i : i + 1], generator
        )
        for i, (z, mode, start) in enumerate(
            zip(clips["latents"], clips["modes"], clips["start"], strict=True)
        )
    ]
    together = module.packed_losses(clips, text, drawn())
    assert torch.allclose(together, torch.cat(alone), rtol=1e-4)


def clip_of(count: int, known: torch.Tensor | None = None) -> Noised:
    tokens = torch.zeros(1, count, 4)
    return Noised(tokens, tokens, torch.zeros(1, count), torch.zeros(1, count, 5), known)


def test_dropped_tokens_become_fewer(module: DiTTraining) -> None:
    module.token_drop, kept = 0.5, []
    for done in (0.0, 0.5, 1.0):
        module.progress = lambda done=done: done
        kept.append(module.kept_tokens(clip_of(20), drawn()).tolist())
    assert [len(tokens) for tokens in kept] == [10, 15, 20]
    assert all(tokens == sorted(set(tokens)) for tokens in kept)


def test_the_last_token_of_a_clip_is_not_dropped(module: DiTTraining) -> None:
    module.token_drop = 1.0
    assert len(module.kept_tokens(clip_of(20), drawn())) == 1


def test_a_clip_keeps_an_unknown_token(module: DiTTraining) -> None:
    module.token_drop = 0.9
    known = torch.ones(1, 20, dtype=torch.bool)
    known[0, 13] = False
    for step in range(10):
        generator = torch.Generator().manual_seed(step)
        assert 13 in module.kept_tokens(clip_of(20, known), generator)


@pytest.mark.parametrize(("precision", "half"), [("bf16-mixed", True), ("32-true", False)])
def test_muon_computes_in_the_precision_of_the_run(
    module: DiTTraining, precision: str, half: bool
) -> None:
    module.trainer = L.Trainer(precision=precision, accelerator="cpu", logger=False, max_steps=1)
    assert module.configure_optimizers()["optimizer"].in_bfloat16 == half


@pytest.mark.parametrize(
    ("step", "done", "expected"),
    [(0, 0.0, 0.01), (49, 0.0, 0.5), (200, 0.5, 0.5), (200, 1.0, 0.0), (9, 0.99, 0.01)],
    ids=["first", "warming up", "half way", "end", "end before the warm-up is over"],
)
def test_rates_warm_up_and_decay(
    module: DiTTraining, step: int, done: float, expected: float
) -> None:
    assert module.rate(step, done) == pytest.approx(expected)


def test_each_clip_is_shifted_as_a_whole() -> None:
    """A clip that does not change over time still does not when it is shifted."""
    pixels = torch.randn(4, 1, 3, 8, 8).expand(4, 5, 3, 8, 8)  # (B, K, C, H, W)
    shifted = shift_clips(pixels, torch.Generator().manual_seed(0))
    assert torch.equal(shifted, shifted[:, :1].expand_as(shifted))


def test_false_colors_keep_what_is_no_color() -> None:
    """The three channels, in any order and each with any sign, have the same magnitudes."""
    pixels = torch.randn(4, 2, 3, 8, 8)  # (B, K, C, H, W)
    recolored = in_false_colors(pixels, torch.Generator().manual_seed(0))
    assert torch.equal(recolored.abs().sort(dim=2).values, pixels.abs().sort(dim=2).values)
    assert not torch.equal(recolored, pixels)
