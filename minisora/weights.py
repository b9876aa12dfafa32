"""Weights on disk: a folder with config.json and one bfloat16 safetensors file per part."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from minisora.errors import InputError
from minisora.files import whole, write_whole

Part = TypeVar("Part", bound=nn.Module)


def shipped() -> Path:
    """The weights that come with the package: inside it when installed from a wheel, else in the
    checkout's data/."""
    inside = Path(__file__).parent / "weights"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data" / "weights"


def read_config(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise InputError(
            f"no weights in {folder}: it has no config.json; give a folder that `minisora fit` wrote"
        )
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError if it holds none."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it holds no JSON object")
    return content


def kept(path: Path) -> dict[str, Any]:
    """What the file holds of earlier runs. A damaged one is put aside."""
    try:
        return read_object(path) if path.exists() else {}
    except InputError:
        path.replace(path.with_suffix(".damaged.json"))
        return {}


def save(folder: str | Path, config: dict[str, Any], **parts: nn.Module) -> None:
    """Writes each part in bfloat16 beside config.json, which gains the part's own `config`. Files
    appear whole or not at all; what the folder already has of other parts stays, but for a damaged
    config.json, which is put aside."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = kept(folder / "config.json") | config
    for name, part in parts.items():
        config[name] = part.config
        tensors = {
            key: value.detach().to("cpu", torch.bfloat16).contiguous()
            for key, value in part.state_dict().items()
        }
        with whole(folder / f"{name}.safetensors") as partial:
            save_file(tensors, partial, metadata={"format": "pt"})
    write_whole(folder / "config.json", json.dumps(config, indent=1) + "\n")


def note(folder: str | Path, name: str, record: dict[str, Any]) -> None:
    """Keeps `record` under `name` in the folder's provenance.json. A damaged one is put aside."""
    path = Path(folder) / "provenance.json"
    write_whole(path, json.dumps(kept(path) | {name: record}, indent=1) + "\n")


def fingerprint(folder: str | Path, name: str) -> str:
    """Eight digits that tell these weights of part `name` from others. Raises InputError if there
    are none."""
    try:
        return hashlib.sha256((Path(folder) / f"{name}.safetensors").read_bytes()).hexdigest()[:8]
    except OSError:
        raise InputError(f"no weights in {folder}: {name}.safetensors is missing") from None


def load(folder: str | Path, name: str, kind: type[Part]) -> Part:
    """Builds part `name` from its config and loads its weights, in float32 and ready to use.

    Raises InputError for a missing or damaged file, and for weights that do not fit the config,
    naming the key.
    """
    config = read_config(folder)
    path = Path(folder) / f"{name}.safetensors"
    if name not in config:
        raise InputError(
            f"{folder} holds no {name}: its config.json has {', '.join(config) or 'nothing'}"
        )
    if not path.is_file():
        raise InputError(f"no weights in {path}: the file is missing")
    try:
        part = kind(**config[name])
    except TypeError as error:
        raise InputError(
            f"{Path(folder) / 'config.json'} does not fit this version ({name}): {error}"
        ) from None
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}): copy or train it again") from None
    expected = part.state_dict()
    for key in sorted(expected.keys() | tensors.keys()):
        if key not in tensors or key not in expected:
            raise InputError(
                f"{path} does not fit its config: {key} is {'missing' if key in expected else 'not expected'}"
            )
        if tensors[key].shape != expected[key].shape:
            got, need = tuple(tensors[key].shape), tuple(expected[key].shape)
            raise InputError(
                f"{path} does not fit its config: {key} has shape {got}, the config needs {need}"
            )
    part.load_state_dict({key: value.float() for key, value in tensors.items()})
    return part.eval().requires_grad_(False)
