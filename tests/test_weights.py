"""Bundles of weights: what is written, what is read, old forms, and what is refused."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from minisora import InputError, Sora, weights, world
from minisora.captioner import Captioner
from minisora.dit import DiT
from minisora.text import PretrainedEncoder
from minisora.vae import VAE


class OwnDiT(DiT):
    """A class outside minisora, which this file has imported."""


@pytest.fixture
def bundle(tiny_sora: Sora, tmp_path: Path) -> Path:
    tiny_sora.save(tmp_path)
    return tmp_path


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def write_config(folder: Path, config: object) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def red_circle(folder: Path) -> np.ndarray:
    sora = Sora.from_pretrained(folder)
    return sora("a red circle", num_frames=5, generator=torch.Generator().manual_seed(0))


# The present form


def test_the_package_finds_its_weights() -> None:
    assert (weights.shipped() / "config.json").is_file()


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ("vae", "minisora.vae.VAE"),
        ("text", "minisora.text.TextEncoder"),
        ("dit", "minisora.dit.DiT"),
    ],
)
def test_a_bundle_names_the_class_of_each_part(bundle: Path, part: str, path: str) -> None:
    assert config_of(bundle)[part]["class"] == path


@pytest.mark.parametrize("part", ["vae", "text", "dit"])
def test_a_bundle_has_the_config_of_each_part(bundle: Path, tiny_sora: Sora, part: str) -> None:
    written = json.loads(json.dumps(getattr(tiny_sora, part).config))  # tuples become lists
    assert config_of(bundle)[part]["config"] == written


@pytest.mark.parametrize("key", ["trained_on", "defaults"])
def test_a_bundle_says_how_the_model_is_used(bundle: Path, tiny_sora: Sora, key: str) -> None:
    assert config_of(bundle)[key] == getattr(tiny_sora, key)


def test_weights_are_stored_in_bfloat16(bundle: Path) -> None:
    tensors = load_file(bundle / "dit.safetensors").values()
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}


def test_loaded_weights_are_frozen_float32(bundle: Path) -> None:
    parameters = list(weights.load(bundle, "dit", DiT).parameters())
    assert {p.dtype for p in parameters} == {torch.float32}
    assert not any(p.requires_grad for p in parameters)


def test_loading_leaves_the_global_random_state(bundle: Path) -> None:
    before = torch.random.get_rng_state()
    Sora.from_pretrained(bundle)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_saving_a_part_leaves_the_others(bundle: Path) -> None:
    before = config_of(bundle)
    captioner = Captioner(sorted(world.WORDS), width=32, depth=1)
    weights.save(bundle, {}, captioner=captioner)
    after = config_of(bundle)
    assert after.pop("captioner")["class"] == "minisora.captioner.Captioner"
    assert after == before


def test_a_fingerprint_is_that_of_the_file(bundle: Path) -> None:
    before = weights.fingerprint(bundle, "vae")
    weights.save(bundle, {}, vae=VAE(channels=4, space=8, width=16, depth=1))
    assert len(before) == 8
    assert weights.fingerprint(bundle, "vae") != before


# Old forms


def without_scale(folder: Path) -> None:
    """Rewrites a bundle as it was before the DiT read the size of a picture."""
    path = folder / "dit.safetensors"
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if not k.startswith("scale_embed")}, path)


def as_old_bundle(folder: Path) -> None:
    """Rewrites a bundle as it was before it named classes: `makes` in place of `trained_on`,
    configs without their class, no layer for sizes, and two tensors under their old names."""
    without_scale(folder)
    config = config_of(folder)
    old = {"makes": {"num_frames": 17, "height": 32, "width": 32}, "defaults": config["defaults"]}
    for part in ("vae", "text", "dit"):
        old[part] = config[part]["config"]
        path = folder / f"{part}.safetensors"
        tensors = load_file(path).items()
        renamed = {key.replace("position_embed", "place"): value for key, value in tensors}
        save_file(renamed, path)
    write_config(folder, old)


@pytest.fixture
def blind(tiny_sora: Sora, tmp_path: Path) -> Path:
    """A bundle whose DiT does not see how large its picture is, as none did before."""
    for p in tiny_sora.dit.scale_embed.parameters():
        torch.nn.init.zeros_(p)
    tiny_sora.save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("age", [without_scale, as_old_bundle])
def test_an_old_bundle_gives_the_same_pixels(blind: Path, age: Callable) -> None:
    present = red_circle(blind)
    age(blind)
    assert np.array_equal(red_circle(blind), present)


def test_an_old_bundle_has_its_old_tensors(bundle: Path) -> None:
    as_old_bundle(bundle)
    tensors = load_file(bundle / "dit.safetensors").keys()
    assert "place.weight" in tensors
    assert not [name for name in tensors if "scale_embed" in name]


def test_the_size_of_the_picture_is_read_by_new_bundles(bundle: Path) -> None:
    """So that the tests above say something."""
    present = red_circle(bundle)
    without_scale(bundle)
    assert not np.array_equal(red_circle(bundle), present)


def test_half_a_layer_is_not_an_old_bundle(bundle: Path) -> None:
    path = bundle / "dit.safetensors"
    tensors = load_file(path)
    del tensors["scale_embed.bias"]
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"scale_embed\.bias is missing"):
        weights.load(bundle, "dit", DiT)


@pytest.mark.parametrize(
    ("objects", "worlds"),
    [({}, ["shapes"]), ({"objects": 1}, ["shapes"]), ({"objects": 2}, ["pairs", "shapes"])],
    ids=["no number", "one", "two"],
)
def test_what_an_old_bundle_was_trained_on(objects: dict, worlds: list[str]) -> None:
    old = {"makes": {"num_frames": 17, "height": 32, "width": 48, **objects}}
    assert weights.upgrade(old)["trained_on"] == {
        "worlds": worlds,
        "sizes": [[32, 48]],
        "durations": [1, 5, 9, 13, 17],
        "modes": ["text"],
        "fps": 8,
    }


def test_an_old_text_encoder_with_a_source_is_a_pretrained_one() -> None:
    entry = weights.upgrade({"text": {"source": "minilm"}})["text"]
    assert entry["class"] == f"{PretrainedEncoder.__module__}.{PretrainedEncoder.__qualname__}"


def test_a_present_config_is_not_changed(bundle: Path) -> None:
    assert weights.upgrade(config_of(bundle)) == config_of(bundle)


def test_an_old_bundle_is_upgraded_when_a_part_is_saved(bundle: Path) -> None:
    present = config_of(bundle)
    as_old_bundle(bundle)
    weights.save(bundle, {})
    assert config_of(bundle) == present


def test_the_old_names_of_a_captioners_tensors(tmp_path: Path) -> None:
    captioner = Captioner(sorted(world.WORDS), width=32, depth=1)
    weights.save(tmp_path, {}, captioner=captioner)
    path = tmp_path / "captioner.safetensors"
    renamed = {key.replace("position_embed", "place"): v for key, v in load_file(path).items()}
    assert {"place", "word_place"} <= {part for key in renamed for part in key.split(".")}
    save_file(renamed, path)
    loaded = weights.load(tmp_path, "captioner", Captioner).state_dict()
    for name, value in captioner.state_dict().items():
        assert torch.equal(loaded[name], value.bfloat16().float()), name


# Classes of one's own


def test_a_class_of_ones_own_that_was_imported_is_loaded(bundle: Path) -> None:
    dit = OwnDiT("tiny", channels=4, patch=(1, 1, 1), text_width=32)
    weights.save(bundle, {}, dit=dit)
    assert type(Sora.from_pretrained(bundle).dit) is OwnDiT


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch) -> str:
    """A module that could be imported, and was not."""
    (tmp_path / "stranger.py").write_text("from minisora.dit import DiT\nclass Other(DiT): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "stranger"


def test_a_class_that_was_not_imported_is_refused(bundle: Path, stranger: str) -> None:
    config = config_of(bundle)
    config["dit"]["class"] = f"{stranger}.Other"
    write_config(bundle, config)
    with pytest.raises(InputError) as refused:
        weights.load(bundle, "dit", DiT)
    sentence = "no DiT called stranger.Other: if it is a class of your own, import it first"
    assert str(refused.value) == sentence
    assert stranger not in sys.modules


@pytest.mark.parametrize(
    "path",
    ["minisora.vae.VAE", "minisora.dit.SIZES", "minisora.dit.None", "minisora.no.DiT", "DiT", ""],
    ids=["another network", "no class", "no such class", "no module", "no path", "empty"],
)
def test_what_is_no_such_network_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="no DiT called"):
        weights.class_named(path, DiT)


def test_a_variant_of_the_package_is_imported(monkeypatch) -> None:
    name = "minisora.variants.positions"
    monkeypatch.delitem(sys.modules, name, raising=False)
    assert issubclass(weights.class_named(f"{name}.NoRotations", DiT), DiT)
    assert isinstance(sys.modules[name], ModuleType)


# Damage


def cut(folder: Path) -> None:
    path = folder / "dit.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def remove(folder: Path) -> None:
    (folder / "dit.safetensors").unlink()


def change_dit(**changes: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = config_of(folder)
        config["dit"]["config"] |= changes
        write_config(folder, config)

    return change


def without(key: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = config_of(folder)
        del config[key]
        write_config(folder, config)

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
        (cut, "dit.safetensors is damaged"),
        (remove, "dit.safetensors: the file is missing"),
        (
            change_dit(text_width=64),
            r"blocks.0.attention.context_kv.weight has shape \(128, 32\), "
            r"the config needs \(128, 64\)",
        ),
        (change_dit(heads=64), "does not fit this version .*heads"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "config.json is damaged"),
        (without("dit"), "holds no dit: its config.json has trained_on, defaults, vae, text"),
        (without("trained_on"), "its config.json lacks trained_on or defaults"),
    ],
    ids=[
        *("no config", "cut file", "no file", "another shape", "unknown argument"),
        *("cut config", "a list", "no DiT", "no trained_on"),
    ],
)
def test_damaged_bundles_are_refused(bundle: Path, damage, message: str) -> None:
    damage(bundle)
    with pytest.raises(InputError, match=message):
        Sora.from_pretrained(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("head.weight"), "head.weight is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "extra is not expected"),
    ],
    ids=["missing", "extra"],
)
def test_the_tensors_have_to_be_those_of_the_config(bundle: Path, change, message: str) -> None:
    path = bundle / "dit.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(InputError, match=message):
        weights.load(bundle, "dit", nn.Module)


def test_records_of_parts_stand_side_by_side(tmp_path: Path) -> None:
    weights.record_provenance(tmp_path, "vae", {"steps": 1})
    weights.record_provenance(tmp_path, "dit", {"steps": 2})
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert record == {"vae": {"steps": 1}, "dit": {"steps": 2}}


def test_a_damaged_record_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text("{")
    weights.record_provenance(tmp_path, "dit", {"steps": 3})
    assert json.loads((tmp_path / "provenance.json").read_text()) == {"dit": {"steps": 3}}
    assert (tmp_path / "provenance.damaged.json").read_text() == "{"


def test_a_damaged_config_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    weights.save(tmp_path, {"trained_on": {}})
    assert weights.read_config(tmp_path) == {"trained_on": {}}
    assert (tmp_path / "config.damaged.json").read_text() == "[]"


# Numbers that are not finite


@pytest.fixture
def broken_vae() -> VAE:
    vae = VAE(channels=4, space=8, width=16, depth=1)
    vae.encode_linear.weight.data[0, 0] = float("nan")
    return vae


def test_weights_that_are_not_finite_are_not_written(broken_vae: VAE, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"encode_linear\.weight holds .* not finite"):
        weights.save(tmp_path, {}, vae=broken_vae)
    assert not (tmp_path / "vae.safetensors").exists()


def test_weights_that_are_not_finite_are_not_loaded(
    broken_vae: VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(weights, "check_finite", lambda *_: None)
        weights.save(tmp_path, {}, vae=broken_vae)
    with pytest.raises(InputError, match=r"vae\.safetensors is not usable"):
        weights.load(tmp_path, "vae", VAE)


def test_weights_can_be_read_by_others_if_the_umask_says_so(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        weights.save(tmp_path, {}, vae=VAE(channels=4, space=8, width=16, depth=1))
    finally:
        os.umask(before)
    assert (tmp_path / "vae.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "change",
    [{"depth": 10**9}, {"depth": "three"}, {"depth": 1.5}, {"width": -1}, {"space": 0}, {"no": 1}],
    ids=str,
)
def test_a_config_with_absurd_values_is_refused(tmp_path: Path, change: dict) -> None:
    weights.save(tmp_path, {}, vae=VAE(channels=4, space=8, width=16, depth=1))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["vae"]["config"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(InputError):
        weights.load(tmp_path, "vae", VAE)
