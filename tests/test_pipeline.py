import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from minisora import InputError, Sora, weights
from minisora.text import TextEncoder


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_seed_makes_the_clip(tiny_sora: Sora) -> None:
    a, b, c = (tiny_sora("a red circle", generator=draws(seed)) for seed in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert a.shape == (1, 17, 32, 32, 3) and a.dtype == np.uint8


@pytest.mark.parametrize("frames", [1, 2, 5, 12, 17])
def test_any_number_of_frames(tiny_sora: Sora, frames: int) -> None:
    assert tiny_sora(["red circle", "blue star"], num_frames=frames, generator=draws()).shape == (
        2,
        frames,
        32,
        32,
        3,
    )


def test_trimmed_frames_are_those_of_the_longer_clip(tiny_sora: Sora) -> None:
    longer = tiny_sora("red circle", num_frames=13, generator=draws())
    assert np.array_equal(
        tiny_sora("red circle", num_frames=10, generator=draws()), longer[:, :10]
    )


def test_prompt_guidance_and_negative_prompt_steer(tiny_sora: Sora) -> None:
    base = tiny_sora("red circle", generator=draws())
    for changed in (
        tiny_sora("blue star", generator=draws()),
        tiny_sora("red circle", guidance_scale=5.0, generator=draws()),
        tiny_sora("red circle", negative_prompt="blue star", generator=draws()),
        tiny_sora("red circle", num_inference_steps=4, generator=draws()),
    ):
        assert not np.array_equal(changed, base)
    alone = tiny_sora("red circle", guidance_scale=1.0, generator=draws())
    assert np.array_equal(
        tiny_sora("red circle", guidance_scale=1.0, negative_prompt="star", generator=draws()),
        alone,
    )


def test_a_damaged_record_is_put_aside(tmp_path: Path) -> None:
    weights.note(tmp_path, "vae", {"steps": 1})
    weights.note(tmp_path, "dit", {"steps": 2})
    path = tmp_path / "provenance.json"
    assert json.loads(path.read_text()) == {"vae": {"steps": 1}, "dit": {"steps": 2}}
    path.write_text("{")
    weights.note(tmp_path, "dit", {"steps": 3})
    assert json.loads(path.read_text()) == {"dit": {"steps": 3}}
    assert (tmp_path / "provenance.damaged.json").read_text() == "{"
    (tmp_path / "config.json").write_text("[]")
    weights.save(tmp_path, {"makes": {}})
    assert weights.read_config(tmp_path) == {"makes": {}}
    assert (tmp_path / "config.damaged.json").read_text() == "[]"


def test_saved_weights_make_the_same_clip(tiny_sora: Sora, tmp_path: Path) -> None:
    tiny_sora.save(tmp_path)
    again = Sora.from_pretrained(tmp_path)
    again.save(tmp_path / "twice")  # bfloat16 once is bfloat16 for good
    twice = Sora.from_pretrained(tmp_path / "twice")
    assert np.array_equal(
        again("red circle", generator=draws()), twice("red circle", generator=draws())
    )
    assert sorted(p.name for p in tmp_path.glob("*.*")) == [
        "config.json",
        "dit.safetensors",
        "text.safetensors",
        "vae.safetensors",
    ]


def test_bad_prompts_and_sizes(tiny_sora: Sora) -> None:
    for arguments, words in (
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": "..."}, "the prompt is empty"),
        ({"num_inference_steps": 0}, "1 or more, got 0"),
        ({"guidance_scale": float("nan")}, "must be a number, got nan"),
        ({"num_frames": 18}, "1 to 17 frames, got 18: the nearest is 17"),
        ({"num_frames": 0}, "the nearest is 1"),
        ({"height": 30}, "got 30 x 32: the nearest is 32 x 32"),
        ({"prompt": "red " * 30}, "30 words"),
    ):
        with pytest.raises(InputError, match=words):
            tiny_sora(**({"prompt": "a red circle"} | arguments))


def test_unknown_words_are_named_once(tiny_sora: Sora) -> None:
    with pytest.warns(UserWarning, match="reads them as blanks: crimson, disc, ugly$") as caught:
        tiny_sora(["a crimson circle", "a crimson disc"], negative_prompt="ugly")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_sora("a red circle")


def test_parts_of_two_models_do_not_mix(tiny_sora: Sora) -> None:
    other = TextEncoder(["red"], width=16)
    with pytest.raises(InputError, match="numbers of a text token are 16, the DiT takes 32"):
        Sora(tiny_sora.vae, other, tiny_sora.dit, tiny_sora.makes, tiny_sora.defaults)


def test_damaged_weights(tiny_sora: Sora, tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(InputError, match=words):
            Sora.from_pretrained(tmp_path)

    refused("it has no config.json")
    tiny_sora.save(tmp_path)
    whole, config = (
        (tmp_path / "dit.safetensors").read_bytes(),
        json.loads((tmp_path / "config.json").read_text()),
    )
    (tmp_path / "dit.safetensors").write_bytes(whole[:1000])
    refused("dit.safetensors is damaged")
    (tmp_path / "dit.safetensors").unlink()
    refused("dit.safetensors: the file is missing")
    (tmp_path / "dit.safetensors").write_bytes(whole)
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"dit": config["dit"] | {"text_width": 64}})
    )
    refused(
        r"blocks.0.attention.context_kv.weight has shape \(128, 32\), the config needs \(128, 64\)"
    )
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"dit": config["dit"] | {"heads": 64}})
    )
    refused("does not fit this version .*heads")
    for damaged in ("{", "[1]"):
        (tmp_path / "config.json").write_text(damaged)
        refused("config.json is damaged")


def test_the_package_finds_its_weights() -> None:
    assert (weights.shipped() / "config.json").is_file()
