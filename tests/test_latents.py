"""`minisora encode`: a folder of clips becomes latents that training reads at random."""

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import refused, shake
from safetensors.torch import load_file
from torch import Tensor

from minisora import InputError, latents, video, weights, world
from minisora.cli import main
from minisora.device import autocast
from minisora.draws import Ranks
from minisora.files import locked
from minisora.footage import Footage
from minisora.latents import LatentStore, encode_footage, given_ranks
from minisora.vae import VAE, to_pixels

SIZES = [
    (17, 32, 48),
    (1, 32, 32),
    (15, 48, 32),
    (5, 32, 32),
    (9, 32, 32),
]  # frames, height, width
GROUPS = [5, 1, 4, 2, 3]
STAGE = {"channels": 4, "space": 8, "width": 16, "depth": 1}


@pytest.fixture(scope="module", autouse=True)
def two_clips_a_shard() -> Iterator[None]:
    """So that five clips fill three shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "CLIPS", 2)
        yield


def make_clips(folder: Path, sizes: list[tuple[int, int, int]]) -> Path:
    """A folder as `minisora ingest` writes it."""
    folder.mkdir()
    head, rows, captions = {"seconds": 20}, [], []
    for number, (frames, height, width) in enumerate(sizes):
        name = f"{number}.mp4"
        video.write(folder / name, world.clip(0, number, frames, height, width).frames)
        clip = {"clip": name, "start": 0.0, "end": frames / 8, "frames": frames}
        clips = [clip | {"height": height, "width": width}]
        rows.append({"file": f"{number}.mov", "sha256": f"{number:064x}", "clips": clips})
        captions.append({"file": name, "caption": f"clip {number}"})
    (folder / "index.jsonl").write_text("\n".join(map(json.dumps, [head, *rows])) + "\n")
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, captions)) + "\n")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained VAE in vae/, clips in clips/ and their latents in latents/."""
    root = tmp_path_factory.mktemp("encode")
    weights.save(root / "vae", {}, vae=shake(VAE(**STAGE)))
    make_clips(root / "clips", SIZES)
    encode(root, root / "latents")
    return root


def encode(root: Path, out: Path, ranks: Ranks | None = None) -> list[int]:
    return encode_footage(str(root / "clips"), str(out), str(root / "vae"), ranks)


@pytest.fixture
def store(root: Path) -> LatentStore:
    return LatentStore(root / "latents")


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A copy of everything, to be damaged."""
    return Path(shutil.copytree(root, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pixels(root: Path, number: int) -> Tensor:
    """The frames of a clip that are encoded, (1, 3, 1 + 4k, H, W)."""
    frames = video.read(root / "clips" / f"{number}.mp4")[: 4 * GROUPS[number] - 3]
    return to_pixels(frames[None])


# What a store holds


@pytest.mark.parametrize("number", range(5))
def test_latents_are_those_of_the_whole_clip(root: Path, number: int, store: LatentStore) -> None:
    """Though they were encoded as the frames came."""
    vae = weights.load(root / "vae", "vae", VAE)
    with autocast(torch.device("cpu")):
        whole = vae.encode(pixels(root, number))[0]  # (C, t, h, w)
    assert torch.allclose(store.latents(number).float(), whole.float(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("number", range(5))
def test_images_are_each_groups_last_frame_alone(
    root: Path, number: int, store: LatentStore
) -> None:
    vae = weights.load(root / "vae", "vae", VAE)
    for group, frame in enumerate(pixels(root, number)[:, :, ::4].unbind(2)):
        with autocast(torch.device("cpu")):
            image = vae.encode(frame[:, :, None])[0]  # (C, 1, h, w)
        found = store.images(number, group)
        assert torch.allclose(found.float(), image.float(), rtol=1e-2, atol=1e-2)


def test_in_float32_latents_are_equal_to_half_precision(
    in_float32: None, root: Path, tmp_path: Path
) -> None:
    encode(root, tmp_path / "latents")
    whole = weights.load(root / "vae", "vae", VAE).encode(pixels(root, 0))[0]
    found = LatentStore(tmp_path / "latents").latents(0).float()
    assert torch.allclose(found, whole, rtol=1e-3, atol=1e-3)


def test_latents_and_images_differ_where_a_group_moves(store: LatentStore) -> None:
    moving = [not torch.equal(store.latents(0, k, k + 1), store.images(0, k)) for k in range(5)]
    assert moving == [False, True, True, True, True]


def test_a_slice_is_a_part_of_the_whole(store: LatentStore) -> None:
    assert torch.equal(store.latents(2, 1, 3), store.latents(2)[:, 1:3])


def test_a_store_can_be_handed_to_a_worker_process(store: LatentStore) -> None:
    before = store.latents(0)  # its file is open now
    assert torch.equal(pickle.loads(pickle.dumps(store)).latents(0), before)


def test_frames_after_the_last_whole_group_are_left_out(store: LatentStore) -> None:
    assert [store.latents(number).shape[1] for number in range(5)] == GROUPS
    assert [clip.groups for clip in store.clips] == GROUPS


def test_latents_have_the_clips_own_size(store: LatentStore) -> None:
    assert store.latents(0).shape == (4, 5, 4, 6)


def test_a_store_knows_names_captions_and_sizes(store: LatentStore) -> None:
    found = [(c.name, c.caption, c.frames, *c.size) for c in store.clips]
    assert found == [(f"{i}.mp4", f"clip {i}", *size) for i, size in enumerate(SIZES)]


def test_the_head_says_what_made_it(store: LatentStore, root: Path) -> None:
    assert store.head["vae"] == weights.fingerprint(root / "vae", "vae")
    assert store.head["vae_config"]["config"]["channels"] == 4
    assert (store.head["count"], store.head["shards"]) == (5, 3)


def test_any_program_that_knows_safetensors_reads_a_shard(root: Path) -> None:
    tensors = load_file(root / "latents" / "00001.safetensors")
    names = [f"00000{number}.{kind}" for number in (2, 3) for kind in ("images", "latents")]
    assert sorted(tensors) == names
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


def test_a_store_holds_nothing_else(root: Path) -> None:
    shards = {f"0000{shard}.safetensors" for shard in range(3)}
    assert set(contents(root / "latents")) == shards | {
        "latents.json", "index.jsonl", "captions.jsonl",
    }  # fmt: skip


def most_alive(vae: VAE, length: int) -> int:
    """The most frames and latents in memory at once while a clip of that length is encoded."""
    made: list[weakref.ref] = []
    most = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal most
        for number in range(length):
            frame = np.full((16, 16, 3), number, np.uint8)
            made.append(weakref.ref(frame))
            yield frame
            most = max(most, sum(each() is not None for each in made))

    for pair in latents.encode_groups(vae, frames()):
        made.extend(map(weakref.ref, pair))
    return most


def test_memory_does_not_grow_with_a_clip(root: Path) -> None:
    vae = weights.load(root / "vae", "vae", VAE)
    assert most_alive(vae, 81) == most_alive(vae, 9)


def test_one_thread_and_two_make_the_same_latents(root: Path) -> None:
    vae = weights.load(root / "vae", "vae", VAE)
    frames, made = world.clip(0, 0, 5, 96, 96).frames, []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with autocast(torch.device("cpu")):
            pairs = [*latents.encode_groups(vae, frames)]
        made.append(torch.stack([part for pair in pairs for part in pair]))
    assert torch.equal(*made)


# Stopped, and shared

KILLED = """
import os, signal, sys
from minisora import latents
latents.CLIPS, write, left = 2, latents.write_group, [{writes}]
def count(*arguments):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    write(*arguments)
latents.write_group = count
latents.encode_footage(*sys.argv[1:])
"""


@pytest.mark.parametrize("writes", [0, 15], ids=["in the first shard", "in the second"])
def test_a_killed_run_goes_on_to_the_same_store(root: Path, tmp_path: Path, writes: int) -> None:
    out = tmp_path / "latents"
    folders = [str(each) for each in (root / "clips", out, root / "vae")]
    killed = subprocess.run([sys.executable, "-c", KILLED.format(writes=writes), *folders])
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in out.glob(".*.partial")] != []  # it was in the middle of a shard
    encode(root, out)
    assert contents(out) == contents(root / "latents")


def test_an_unfinished_store_is_not_read(copy: Path) -> None:
    (copy / "latents" / "00001.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"lacks 1 shards, first 00001.safetensors: run `minisora"
    ):
        LatentStore(copy / "latents")


def test_whole_shards_are_not_encoded_again(copy: Path) -> None:
    (copy / "latents" / "00001.safetensors").unlink()
    before = {path.name: path.stat().st_ino for path in (copy / "latents").glob("*.safetensors")}
    encode(copy, copy / "latents")
    after = {path.name: path.stat().st_ino for path in (copy / "latents").glob("*.safetensors")}
    assert {name: after[name] for name in before} == before
    assert len(after) == 3


def test_two_ranks_write_what_one_process_writes(root: Path, tmp_path: Path) -> None:
    for rank in range(2):
        encode(root, tmp_path / "latents", Ranks(rank, 2))
    assert contents(tmp_path / "latents") == contents(root / "latents")


def test_each_rank_knows_what_the_others_owe(root: Path, tmp_path: Path) -> None:
    owed = [encode(root, tmp_path / "latents", Ranks(rank, 2)) for rank in (1, 0)]
    assert owed == [[0, 2], []]


def test_ranks_come_from_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert given_ranks() == Ranks(3, 8)


def test_the_command_line_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert given_ranks(0, 2) == Ranks(0, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((2, 2), "rank must be from 0 to 1, got 2"),
        ((1, None), "belong together"),
        ((None, 2), "belong together"),
    ],
    ids=["too large", "no ranks", "no rank"],
)
def test_impossible_ranks_are_refused(given: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        given_ranks(*given)


def test_torchruns_ranks_must_be_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(InputError, match="RANK and WORLD_SIZE must be numbers"):
        given_ranks()


def test_two_processes_do_not_write_one_shard(root: Path, tmp_path: Path) -> None:
    """And what the first has written of it stays."""
    out = tmp_path / "latents"
    out.mkdir()
    (out / ".00000.safetensors.partial").write_bytes(b"of the first")
    refused = pytest.raises(InputError, match="written by another process")
    with locked(out / "00000.safetensors"), refused:
        encode(root, out)
    assert (out / ".00000.safetensors.partial").read_bytes() == b"of the first"


# Others' latents


def other_vae(root: Path) -> None:
    weights.save(root / "vae", {}, vae=shake(VAE(**STAGE), seed=1))


def other_clips(root: Path) -> None:
    """The same names, lengths and sizes, but cut from another file."""
    index = root / "clips" / "index.jsonl"
    index.write_text(index.read_text().replace("0" * 63 + "1", "f" * 64))


CHANGES = pytest.mark.parametrize(
    ("change", "key"), [(other_vae, "vae"), (other_clips, "clips")], ids=["vae", "clips"]
)


@CHANGES
def test_a_store_of_others_is_not_gone_on_with(copy: Path, change, key: str) -> None:
    change(copy)
    before = contents(copy / "latents")
    with pytest.raises(InputError, match=rf"holds other latents \({key} \w+, now \w+\): name"):
        encode(copy, copy / "latents")
    assert contents(copy / "latents") == before


def test_another_precision_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = latents.fast_bfloat16("cpu")
    monkeypatch.setattr(latents, "fast_bfloat16", lambda _: not computed)
    with pytest.raises(InputError, match=r"precision float16, computed in .*, now float16, comp"):
        encode(copy, copy / "latents")


def test_a_store_serves_the_vae_and_the_clips_that_made_it(root: Path) -> None:
    vae = weights.fingerprint(root / "vae", "vae")
    assert len(LatentStore(root / "latents", vae, Footage(root / "clips"))) == 5


def test_a_store_of_another_vae_is_not_read(root: Path) -> None:
    with pytest.raises(InputError, match=r"latents of the VAE \w{8}, not of 12345678: encode"):
        LatentStore(root / "latents", "12345678")


def test_a_store_of_other_clips_is_not_read(copy: Path) -> None:
    other_clips(copy)
    with pytest.raises(InputError, match="holds latents of other clips than those in"):
        LatentStore(copy / "latents", clips=Footage(copy / "clips"))


@pytest.fixture
def new_captions(copy: Path) -> Path:
    captions = copy / "clips" / "captions.jsonl"
    captions.write_text(captions.read_text().replace("clip 3", "a red circle"))
    return copy


def test_a_store_with_old_captions_is_not_read(new_captions: Path) -> None:
    with pytest.raises(
        InputError, match=r"the captions in .* have changed: run `minisora encode`"
    ):
        LatentStore(new_captions / "latents", clips=Footage(new_captions / "clips"))


def test_new_captions_are_copied_and_nothing_is_encoded(new_captions: Path, monkeypatch) -> None:
    monkeypatch.delattr(latents, "write_shard")
    encode(new_captions, new_captions / "latents")
    store = LatentStore(new_captions / "latents", clips=Footage(new_captions / "clips"))
    assert store.clips[3].caption == "a red circle"


def test_a_folder_without_latents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no latents in .*: `minisora encode` makes such a folder"
    ):
        LatentStore(tmp_path)


# Damage


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def check_found_and_mended(copy: Path, root: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} is .*damaged.*: run `minisora encode` again"):
        LatentStore(copy / "latents").latents(2)
    encode(copy, copy / "latents")
    assert contents(copy / "latents") == contents(root / "latents")


def test_every_flipped_bit_is_found_and_mended(copy: Path, root: Path) -> None:
    """In the length of the header, in the digest, in the header, and anywhere in the numbers."""
    path = copy / "latents" / "00001.safetensors"
    drawn = np.random.default_rng(0).integers(0, 8 * path.stat().st_size, 20).tolist()
    for bit in [0, 60, 8 * latents.DIGEST_AT, 8 * 200, *drawn]:
        flip(path, bit)
        check_found_and_mended(copy, root, "00001.safetensors")


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_a_file_cut_short_is_found_and_mended(copy: Path, root: Path, size: int) -> None:
    path = copy / "latents" / "00001.safetensors"
    os.truncate(path, size % path.stat().st_size)
    check_found_and_mended(copy, root, "00001.safetensors")


def test_a_shard_of_another_store_is_found_and_mended(copy: Path, root: Path) -> None:
    other_vae(copy)
    encode(copy, copy / "others")
    shutil.copy(copy / "others" / "00001.safetensors", copy / "latents")
    shutil.copytree(root / "vae", copy / "vae", dirs_exist_ok=True)
    check_found_and_mended(copy, root, "00001.safetensors")


def test_a_damaged_index_is_found_and_mended(copy: Path, root: Path) -> None:
    flip(copy / "latents" / "index.jsonl", 999)
    check_found_and_mended(copy, root, "index.jsonl")


@pytest.mark.parametrize("bit", [1, 20, 100, 500])
def test_a_damaged_head_is_refused(copy: Path, bit: int) -> None:
    flip(copy / "latents" / "latents.json", bit)
    with pytest.raises(InputError):
        LatentStore(copy / "latents").latents(0)


def test_a_disk_that_fills_up_is_one_sentence(root: Path, tmp_path: Path) -> None:
    """And nothing is left of the shard. Here no file may have more bytes than its first half."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    half = (root / "latents" / "00000.safetensors").stat().st_size // 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (half, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*00000.safetensors: File too large"):
            encode(root, tmp_path / "latents")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "latents").glob("*safetensors*"))


def test_too_small_a_disk_is_refused_before_the_work(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"need 4.99e-06 GB, .* has 1e-06 GB free: make room"):
        encode(root, tmp_path / "latents")


# Clips that cannot be encoded


def test_a_clip_that_has_changed_is_named(copy: Path, tmp_path: Path) -> None:
    video.write(copy / "clips" / "3.mp4", world.clip(0, 3, 9, 32, 32).frames)
    with pytest.raises(
        InputError, match=r"3.mp4 has changed: it has 9 frames, index.jsonl says 5"
    ):
        encode(copy, tmp_path / "latents")


def test_a_clip_that_has_another_size_is_named(copy: Path, tmp_path: Path) -> None:
    video.write(copy / "clips" / "3.mp4", world.clip(0, 3, 5, 48, 32).frames)
    with pytest.raises(InputError, match=r"3.mp4 has changed: a frame is \(48, 32\)"):
        encode(copy, tmp_path / "latents")


@pytest.mark.parametrize(
    ("old", "new"),
    [('"frames": 17', '"frames": "17"'), ('"height": 32', '"height": 0'), ('"0.mp4"', "0")],
    ids=["text for a count", "no height", "a number for a name"],
)
def test_a_damaged_index_is_one_sentence(copy: Path, tmp_path: Path, old: str, new: str) -> None:
    index = copy / "clips" / "index.jsonl"
    index.write_text(index.read_text().replace(old, new))
    with pytest.raises(InputError, match=r"index.jsonl is damaged: run `minisora ingest` again"):
        encode(copy, tmp_path / "latents")


def test_an_empty_index_is_one_sentence(copy: Path, tmp_path: Path) -> None:
    (copy / "clips" / "index.jsonl").write_text("")
    with pytest.raises(InputError, match="has no clips"):
        encode(copy, tmp_path / "latents")


def test_sides_that_the_vae_cannot_take_are_refused(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "clips")
    make_clips(copy / "clips", [(5, 36, 32)])
    with pytest.raises(InputError, match=r"0.mp4 is 36 x 32, the VAE takes multiples of 8"):
        encode(copy, tmp_path / "latents")
    assert not (tmp_path / "latents").exists()


def test_latents_that_float16_cannot_hold_are_refused(copy: Path, tmp_path: Path) -> None:
    vae = weights.load(copy / "vae", "vae", VAE)
    vae.encode_linear.weight.mul_(1e6)
    weights.save(copy / "vae", {}, vae=vae)
    with pytest.raises(InputError, match=r"000000.latents holds numbers that are not finite"):
        encode(copy, tmp_path / "latents")


# The command


def test_the_command_says_when_all_is_there(root: Path, tmp_path: Path, capsys) -> None:
    folders = [str(root / "clips"), "--out", str(tmp_path / "latents"), "--vae", str(root / "vae")]
    main(["encode", *folders, "--rank", "1", "--ranks", "2"])
    main(["encode", *folders, "--rank", "0", "--ranks", "2"])
    first, last = capsys.readouterr().out.splitlines()
    assert first == "rank 1 is done, the others have 2 shards left to write"
    assert "is complete: latents of 5 clips, VAE" in last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vae", "{root}/none"], "no weights in"),
        (["--out", "/dev/null/latents"], "cannot write to the folder /dev/null/latents"),
        (["--rank", "1"], "--rank and --ranks belong together"),
        (["--rank", "-1", "--ranks", "2"], "whole number from 0"),
    ],
    ids=["vae", "out", "rank alone", "negative rank"],
)
def test_bad_options_are_one_sentence(
    root: Path, tmp_path: Path, capsys, options: list[str], message: str
) -> None:
    usual = ["--out", tmp_path / "latents", "--vae", root / "vae"]
    filled = [option.format(root=root) for option in options]
    error = refused(capsys, "encode", root / "clips", *usual, *filled)
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
