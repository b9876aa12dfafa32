"""Latents once: what a VAE makes of a folder of clips, stored so that training never decodes again.

A store is a folder: `latents.json`, its head, says which VAE made it of which clips; `index.jsonl`
and `captions.jsonl` are the clips' own; the shards are safetensors files of 64 clips each. Clip 123
is "000123.latents", float16 (C, 1 + k, h, w), and "000123.images", likewise: each group's last
frame encoded as a one-frame clip, so that a window may begin at any group.

Draws are functions of (seed, step, rank), so training needs random access and nothing else: plain
safetensors files, neither pickle nor a streaming library (litdata) that keeps an order of its own.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from minisora import video, weights
from minisora.device import autocast, best_device, fast_bfloat16, keep_memory
from minisora.draws import Ranks
from minisora.errors import InputError
from minisora.files import atomic, locked, make_folder, write_text
from minisora.footage import CAPTIONS, INDEX, LATENTS, Footage, FootageClip
from minisora.vae import VAE, to_pixels

HEAD, FORMAT = LATENTS, "minisora latents 1"
CLIPS = 64  # in a shard
BYTES = 2  # of a number in float16
# A shard's digest stands at the beginning of its header, so its place is the same in all of them.
START, NO_DIGEST = b'{"__metadata__":{"sha256":"', b"0" * 64
DIGEST_AT = 8 + len(START)

Shapes = dict[str, tuple[int, ...]]  # of a shard's tensors, (C, 1 + k, h, w), in order


# Writing


def encode_footage(clips: str, out: str, vae_folder: str, ranks: Ranks | None = None) -> list[int]:
    """Writes this rank's shards of the store `out`, and returns those that other ranks still owe.

    Whole shards are kept, so a run that was stopped goes on; damaged ones are written anew. Raises
    InputError if the store was begun with another VAE, other clips, or in another precision.
    """
    ranks, device = ranks or Ranks(), own_device()
    if Path(clips).resolve() == Path(out).resolve():
        raise InputError(f"{out} holds the clips: name another folder for their latents")
    footage, vae = Footage(clips), weights.load(vae_folder, "vae", VAE).to(device)
    footage.check_pictures()
    check_sides(footage, vae.space)
    folder, head = make_folder(out), describe(footage, vae_folder, device)
    begin(folder, head, footage)
    mine = range(ranks.rank, head["shards"], ranks.count)
    todo = [shard for shard in mine if not is_whole(shard_path(folder, shard), head)]
    shapes = {shard: layout(footage, numbers(footage, shard), vae) for shard in todo}
    check_room(folder, shapes.values())
    total = sum(len(numbers(footage, shard)) for shard in mine)
    done = total - sum(len(numbers(footage, shard)) for shard in todo)
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True)
    keep_memory()  # a quarter of the CPU's time at 1280 x 720
    bar = tqdm(total=total, initial=done, desc="encoding", unit="clip")
    with bar, exact, autocast(device):
        for shard in todo:
            parts = encode_clips(vae, footage, numbers(footage, shard), bar)
            write_shard(shard_path(folder, shard), shapes[shard], parts, head)
    return missing_shards(folder, len(footage))


def own_device() -> torch.device:
    """The best device; of several CUDA cards the one that `torchrun` means for this process."""
    device = best_device()
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return device


def given_ranks(rank: int | None = None, ranks: int | None = None) -> Ranks:
    """The command line's rank and number of ranks, else those of `torchrun`, else one process.

    Raises InputError if only one of them is given, or if they are impossible.
    """
    if (rank is None) != (ranks is None):
        raise InputError("--rank and --ranks belong together: give both, or neither")
    torchrun = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        found = Ranks(*map(int, torchrun if rank is None or ranks is None else (rank, ranks)))
    except ValueError:
        raise InputError(f"RANK and WORLD_SIZE must be numbers, got {torchrun}") from None
    if not 0 <= found.rank < found.count:
        raise InputError(f"rank must be from 0 to {found.count - 1}, got {found.rank}")
    return found


def check_sides(footage: Footage, space: int) -> None:
    for clip in footage.clips:
        if clip.height % space or clip.width % space:
            raise InputError(
                f"{clip.name} is {clip.height} x {clip.width}, the VAE takes multiples of {space}"
            )


def describe(footage: Footage, vae_folder: str, device: torch.device) -> dict[str, Any]:
    """The head of the store: all that its numbers depend on."""
    computed = "bfloat16" if fast_bfloat16(device.type) else "float32"
    return {
        "format": FORMAT,
        "vae": weights.fingerprint(vae_folder, "vae"),
        "vae_config": weights.read_config(vae_folder)["vae"],
        "clips": index_digest(footage.folder),
        "precision": f"float16, computed in {computed}",
        "count": len(footage),
        "shards": math.ceil(len(footage) / CLIPS),
    }


def index_digest(folder: Path) -> str:
    """Sixteen hex digits for the pictures of clips: their index has the digests of the files that
    they were cut from. Captions are left out, so that they may be written anew."""
    return hashlib.sha256((folder / INDEX).read_bytes()).hexdigest()[:16]


def begin(folder: Path, head: dict[str, Any], footage: Footage) -> None:
    """Writes the head and the clips' index and captions. Raises InputError, and leaves all as it
    is, if there is another head."""
    path = folder / HEAD
    if not path.exists():
        write_text(path, json.dumps(head, indent=1) + "\n")
    old = weights.read_object(path)
    changed = [key for key in old | head if old.get(key) != head.get(key)]
    if changed:
        values = "; ".join(f"{key} {old.get(key)}, now {head.get(key)}" for key in changed)
        raise InputError(f"{folder} holds other latents ({values}): name another folder")
    for name in (INDEX, CAPTIONS):
        with atomic(folder / name) as partial:
            source = footage.folder / name
            partial.write_bytes(source.read_bytes() if source.is_file() else b"")


def check_room(folder: Path, shards: Iterable[Shapes]) -> None:
    needed = sum(BYTES * math.prod(shape) for shapes in shards for shape in shapes.values())
    if needed > (free := shutil.disk_usage(folder).free):
        raise InputError(
            f"the latents need {needed / 1e9:.3g} GB, {folder} has {free / 1e9:.3g} GB free: "
            "make room, or name a folder on another disk"
        )


def encode_clips(
    vae: VAE, footage: Footage, clips: range, bar: tqdm
) -> Iterator[tuple[str, int, Tensor]]:
    """Every latent (C, 1, h, w) of these clips, with the name of its tensor and its group."""
    for number in clips:
        groups = encode_groups(vae, stream(footage, number))
        for group, (latent, image) in enumerate(groups):
            found = {f"{number:06d}.latents": latent.half(), f"{number:06d}.images": image.half()}
            weights.check_finite(found, footage.clips[number].name)
            yield from ((name, group, value) for name, value in found.items())
        bar.update()


def encode_groups(vae: VAE, frames: Iterable[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each group its latent, and that of its last frame alone, (C, 1, h, w) each. Memory holds
    one group of the frames (H, W, 3), so a clip may be of any length."""
    last, device = torch.empty(0), next(vae.parameters()).device

    def pixels() -> Iterator[Tensor]:
        nonlocal last
        for frame in frames:
            last = to_pixels(frame[None, None])[:, :, 0].to(device)  # (1, 3, H, W)
            yield last

    for latent in vae.encode_stream(pixels()):  # it has read up to the group's end, not further
        yield latent[0], vae.encode(last[:, :, None])[0]


def stream(footage: Footage, number: int) -> Iterator[np.ndarray]:
    """The clip's first 1 + 4k frames (H, W, 3). Raises InputError if they are not those of the
    index."""
    clip, count = footage.clips[number], 0
    path = footage.folder / clip.name
    for picture, held in video.resample(path, video.FPS):
        if picture.shape[:2] != clip.size:
            size = picture.shape[:2]
            raise InputError(f"{path} has changed: a frame is {size}, {INDEX} says {clip.size}")
        for _ in range(held):
            if count < clip.whole_frames:
                yield picture
            count += 1
    if count != clip.frames:
        raise InputError(f"{path} has changed: it has {count} frames, {INDEX} says {clip.frames}")


# A shard


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.safetensors"


def numbers(footage: Footage, shard: int) -> range:
    """The clips of a shard."""
    return range(CLIPS * shard, min(CLIPS * (shard + 1), len(footage)))


def layout(footage: Footage, clips: range, vae: VAE) -> Shapes:
    """The shapes (C, 1 + k, h, w), known before anything is encoded."""
    shapes: Shapes = {}
    for number in clips:
        clip = footage.clips[number]
        place = (clip.height // vae.space, clip.width // vae.space)
        for kind in ("latents", "images"):
            shapes[f"{number:06d}.{kind}"] = (vae.channels, clip.groups, *place)
    return shapes


def header_of(shapes: Shapes) -> tuple[bytes, dict[str, int]]:
    """The header of a safetensors file, without its digest, and where in the file each tensor
    begins. Source: https://github.com/huggingface/safetensors, "Format"."""
    entries: dict[str, Any] = {"__metadata__": {"sha256": NO_DIGEST.decode()}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + BYTES * math.prod(shape)
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers are aligned
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + entries[name]["data_offsets"][0] for name in shapes}


def write_shard(
    path: Path, shapes: Shapes, parts: Iterable[tuple[str, int, Tensor]], head: dict[str, Any]
) -> None:
    """Writes each group to its place as it comes, and renames the file when it is whole."""
    header, starts = header_of(shapes)
    try:
        with locked(path), written_aside(path) as file:
            file.write(header)
            for name, group, latent in parts:
                write_group(file, starts[name], shapes[name], group, latent)
            digest = digest_of(file, head)
            file.seek(DIGEST_AT)
            file.write(digest)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}: once that is solved run it again, whole "
            "shards are kept"
        ) from None


@contextmanager
def written_aside(path: Path) -> Iterator[BinaryIO]:
    """Like `files.atomic`, but under one name for each shard: what a killed run left is written
    over, and a store never fills up with such files."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # the name must not be on the disk before the content is
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_group(
    file: BinaryIO, start: int, shape: tuple[int, ...], group: int, latent: Tensor
) -> None:
    """Writes a group (C, 1, h, w) of the tensor (C, 1 + k, h, w) that begins at byte `start`."""
    for channel, plane in enumerate(latent[:, 0].cpu().numpy()):  # (h, w)
        file.seek(start + (channel * shape[1] + group) * plane.nbytes)
        file.write(plane.tobytes())


def digest_of(file: BinaryIO, head: dict[str, Any]) -> bytes:
    """The SHA-256, in hex, of the store's head and a shard, where zeros stand for the digest. So a
    shard of another store does not pass for one of this."""
    file.seek(0)
    found = hashlib.sha256(json.dumps(head).encode() + file.read(DIGEST_AT) + NO_DIGEST)
    file.seek(DIGEST_AT + len(NO_DIGEST))
    while part := file.read(2**20):
        found.update(part)
    return found.hexdigest().encode()


def is_whole(path: Path, head: dict[str, Any]) -> bool:
    """Whether the shard is there, bit for bit as it was written for this store."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        file.seek(DIGEST_AT)
        return file.read(len(NO_DIGEST)) == digest_of(file, head)


def missing_shards(folder: Path, count: int) -> list[int]:
    """The shards of `count` clips that are not there yet."""
    return [k for k in range(math.ceil(count / CLIPS)) if not shard_path(folder, k).is_file()]


# Reading


class LatentStore:
    """The latents of a folder of clips: slices of files that are mapped into memory, not loaded.

    A shard is checked against its digest when it is first opened. Raises InputError if the store is
    unfinished or damaged, or made by another VAE or of other clips or captions than those given.
    """

    def __init__(
        self, folder: str | Path, vae_fingerprint: str | None = None, clips: Footage | None = None
    ) -> None:
        self.folder = Path(folder)
        self.head, self.footage = read_store(self.folder)
        if vae_fingerprint not in (None, self.head["vae"]):
            raise InputError(
                f"{folder} holds latents of the VAE {self.head['vae']}, not of {vae_fingerprint}: "
                "encode the clips with that one to another folder"
            )
        if clips:
            self.check_clips(clips)
        self.shards: dict[int, Any] = {}

    def check_clips(self, clips: Footage) -> None:
        if index_digest(clips.folder) != self.head["clips"]:
            raise InputError(
                f"{self.folder} holds latents of other clips than those in {clips.folder}: "
                "encode these to another folder"
            )
        if clips.fingerprint != self.footage.fingerprint:
            raise InputError(
                f"the captions in {clips.folder} have changed: run `minisora encode` again, "
                "which copies them and encodes nothing twice"
            )

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes, which open the files themselves."""
        return self.__dict__ | {"shards": {}}

    @property
    def clips(self) -> list[FootageClip]:
        return self.footage.clips

    def __len__(self) -> int:
        return len(self.clips)

    def latents(self, number: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Groups `start` to `stop` of clip `number`, float16 (C, stop - start, h, w)."""
        return self.tensor(number, "latents")[:, start:stop]

    def images(self, number: int, group: int) -> Tensor:
        """The last frame of a group, encoded alone, float16 (C, 1, h, w)."""
        return self.tensor(number, "images")[:, group : group + 1]

    def tensor(self, number: int, kind: str) -> Any:
        """What reads slices of a tensor of clip `number`."""
        shard = number // CLIPS
        if shard not in self.shards:
            path = shard_path(self.folder, shard)
            if not is_whole(path, self.head):
                raise InputError(
                    f"{path} is damaged: run `minisora encode` again, which writes it anew"
                )
            self.shards[shard] = safe_open(path, "pt")
        return self.shards[shard].get_slice(f"{number:06d}.{kind}")


def read_store(folder: Path) -> tuple[dict[str, Any], Footage]:
    """The head of a store, and its clips without their pictures. Raises InputError if it is not
    complete."""
    path = folder / HEAD
    if not path.is_file():
        raise InputError(f"no latents in {folder}: `minisora encode` makes such a folder")
    head = weights.read_object(path)
    if head.get("format") != FORMAT or not {"vae", "clips"} <= head.keys():
        raise InputError(
            f"{path} is damaged or of another version: encode the clips to another folder"
        )
    again = "run `minisora encode` again"
    if not (folder / INDEX).is_file() or index_digest(folder) != head["clips"]:
        raise InputError(f"{folder / INDEX} is missing or damaged: {again}")
    footage = Footage(folder)
    if missing := missing_shards(folder, len(footage)):
        first = shard_path(folder, missing[0]).name
        raise InputError(f"{folder} lacks {len(missing)} shards, first {first}: {again}")
    return head, footage
