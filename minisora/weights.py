"""Weights on disk: a *bundle* is a folder with config.json and one safetensors file per network.

config.json holds, for each part ("vae", "text", "dit", "captioner", "upsampler"), its class and the
arguments that build it again; and for a video model `trained_on` and `defaults` (see `Sora`).
Weights are stored in bfloat16.
"""

import contextlib
import hashlib
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from minisora.errors import InputError, check_counts
from minisora.files import atomic, write_text
from minisora.shards import is_first, plain_class, whole

Part = TypeVar("Part", bound=nn.Module)

# Bundles from before 2026-11-28 name no classes, two of their tensors differently, and lack the
# layer that reads the size of a picture: at zero it changes nothing.
OLD_CLASSES = {
    "vae": "minisora.vae.VAE",
    "text": "minisora.text.TextEncoder",
    "dit": "minisora.dit.DiT",
    "captioner": "minisora.captioner.Captioner",
    "upsampler": "minisora.upsampler.Upsampler",
}
ABSENT = {"scale_embed.weight", "scale_embed.bias"}
OLD_NAMES = {r"\bplace\b": "position_embed", r"\bword_place\b": "word_position_embed"}


def shipped() -> Path:
    """The bundle that comes with the package: inside it when installed from a wheel, else in the
    checkout's data/."""
    inside = Path(__file__).parent / "weights"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data" / "weights"


def read_config(folder: str | Path) -> dict[str, Any]:
    """The bundle's config.json, old ones brought to the present form. Raises InputError if the
    folder has none."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise InputError(
            f"no weights in {folder}: it has no config.json; give a folder that `minisora fit` wrote"
        )
    try:
        return upgrade(read_object(path))
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error!r}") from None


def upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """Adds the classes of the parts, and `trained_on` in place of `makes`, to an old config."""
    new = dict(config)
    for name, path in OLD_CLASSES.items():
        if name in config and "class" not in config[name]:
            pretrained = name == "text" and "source" in config[name]
            path = "minisora.text.PretrainedEncoder" if pretrained else path
            new[name] = {"class": path, "config": config[name]}
    if old := new.pop("makes", None):
        check_counts(1, 4096, num_frames=old["num_frames"])
        new["trained_on"] = {
            "worlds": ["pairs", "shapes"] if old.get("objects", 1) > 1 else ["shapes"],
            "sizes": [[old["height"], old["width"]]],
            "durations": list(range(1, old["num_frames"] + 1, 4)),
            "modes": ["text"],
            "fps": 8,
        }
    return new


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError if it holds none."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it holds no JSON object")
    return content


def read_or_set_aside(path: Path) -> dict[str, Any]:
    """The JSON object in a file, {} if there is none. A damaged file is renamed and kept."""
    try:
        return read_object(path) if path.exists() else {}
    except InputError:
        path.replace(path.with_suffix(".damaged.json"))
        return {}


def save(folder: str | Path, config: dict[str, Any], **parts: nn.Module) -> None:
    """Writes each part in bfloat16 and updates config.json. Every part has a `config`, the
    arguments that build it again. Other parts in the folder stay as they are. Of several processes,
    which all have to call this, the first writes."""
    folder = Path(folder)
    states = {name: in_bfloat16(part) for name, part in parts.items()}
    if not is_first():
        return
    folder.mkdir(parents=True, exist_ok=True)
    config = upgrade(read_or_set_aside(folder / "config.json")) | config
    for name, part in parts.items():
        tensors, kind = states[name], plain_class(part)
        config[name] = {"class": f"{kind.__module__}.{kind.__qualname__}", "config": part.config}
        check_finite(tensors, f"the trained {name}")
        with atomic(folder / f"{name}.safetensors") as partial:
            partial.write_bytes(serialize(tensors, metadata={"format": "pt"}))
    write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")


def in_bfloat16(part: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network, whole, on the CPU of the first process."""
    tensors = {}
    for key, value in part.state_dict().items():
        full = whole(value.detach())
        if is_first():
            tensors[key] = full.to("cpu", torch.bfloat16).contiguous()
    return tensors


def check_finite(tensors: dict[str, Tensor], owner: str) -> None:
    """Raises InputError if a tensor holds NaN or infinity."""
    for key, value in tensors.items():
        if not value.isfinite().all():
            raise InputError(f"{owner} is not usable: {key} holds numbers that are not finite")


def record_provenance(folder: str | Path, name: str, record: dict[str, Any]) -> None:
    """Stores how part `name` was trained in the folder's provenance.json."""
    path = Path(folder) / "provenance.json"
    write_text(path, json.dumps(read_or_set_aside(path) | {name: record}, indent=1) + "\n")


def fingerprint(folder: str | Path, name: str) -> str:
    """Eight hex digits that identify the weights of part `name`. Raises InputError if there are
    none."""
    try:
        return hashlib.sha256((Path(folder) / f"{name}.safetensors").read_bytes()).hexdigest()[:8]
    except OSError:
        raise InputError(f"no weights in {folder}: {name}.safetensors is missing") from None


def load(folder: str | Path, name: str, kind: type[Part]) -> Part:
    """Builds part `name`, a `kind`, from its config and loads its weights: float32, on the CPU, in
    eval mode, frozen.

    Raises InputError for a missing or damaged file, an unknown class, and for weights that do not
    fit the config; the message names the key.
    """
    config, path = read_config(folder), Path(folder) / f"{name}.safetensors"
    if name not in config:
        held = ", ".join(config) or "nothing"
        raise InputError(f"{folder} holds no {name}: its config.json has {held}")
    if not path.is_file():
        raise InputError(f"no weights in {path}: the file is missing")
    tensors = read_tensors(path)  # first, as its size bounds what is built
    # our own bundle is not counted, since counting imports a second's worth of torch
    most = sys.maxsize if Path(folder) == shipped() else path.stat().st_size
    part = build(config[name], kind, Path(folder) / "config.json", name, most)
    part.load_state_dict(fitted(tensors, part.state_dict(), path))
    return part.eval().requires_grad_(False)


def build(entry: dict[str, Any], kind: type[Part], source: Path, name: str, most: int) -> Part:
    """The network that an entry {"class", "config"} of config.json describes, untrained. Raises
    InputError, before it fills the memory, if it has more than `most` numbers."""
    try:
        with torch.random.fork_rng(devices=[]):  # loading weights must not shift other draws
            made, config = class_named(entry["class"], kind), entry["config"]
            if most < sys.maxsize and (count := count_numbers(made, config)) > most:
                raise InputError(
                    f"{source} does not fit {name}.safetensors: the config needs "
                    f"{count:,} numbers, the file has {most:,} bytes"
                )
            return made(**config)
    except InputError:
        raise
    except Exception as error:  # values of wrong types can raise anything
        raise InputError(f"{source} does not fit this version ({name}): {error}") from None


def count_numbers(kind: type[nn.Module], config: dict[str, Any]) -> int:
    """The numbers that the network stores, counted without memory for them. 0 if they cannot be,
    and for a frozen encoder, whose size is not the config's to choose."""
    if "source" not in config:
        with contextlib.suppress(Exception), torch.device("meta"):
            return sum(value.numel() for value in kind(**config).state_dict().values())
    return 0


def class_named(path: str, kind: type[Part]) -> type[Part]:
    """The class at a dotted path. Only modules of minisora are imported for it, so that a config
    from somebody else cannot run code; import a class of your own before you load its weights."""
    module, _, name = path.rpartition(".")
    if module.split(".")[0] == "minisora":
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    found = getattr(sys.modules.get(module), name, None)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise InputError(
            f"no {kind.__name__} called {path}: if it is a class of your own, import it first"
        )
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises InputError if it is damaged, or a number is not finite."""
    try:
        tensors = load_file(path)
    except PermissionError:
        raise InputError(f"{path} cannot be read: there is no permission to") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}): copy or train it again") from None
    check_finite(tensors, str(path))
    return tensors


def fitted(
    tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The tensors in float32 under their present names. Raises InputError if they are not the
    `expected` ones."""
    tensors = {current_name(key, expected): value for key, value in tensors.items()}
    if not ABSENT & tensors.keys():
        tensors |= {key: torch.zeros_like(expected[key]) for key in ABSENT & expected.keys()}
    for key in sorted(expected.keys() | tensors.keys()):
        if key not in tensors or key not in expected:
            problem = "missing" if key in expected else "not expected"
            raise InputError(f"{path} does not fit its config: {key} is {problem}")
        if tensors[key].shape != expected[key].shape:
            got, need = tuple(tensors[key].shape), tuple(expected[key].shape)
            raise InputError(
                f"{path} does not fit its config: {key} has shape {got}, the config needs {need}"
            )
    return {key: value.float() for key, value in tensors.items()}


def current_name(key: str, expected: dict[str, Tensor]) -> str:
    """The present name of a tensor that an old bundle may call otherwise."""
    if key not in expected:
        for old, new in OLD_NAMES.items():
            key = re.sub(old, new, key)
    return key
