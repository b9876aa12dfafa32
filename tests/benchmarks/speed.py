"""Speed on this machine, as Markdown tables: `python tests/benchmarks/speed.py [step vae ...]`.

Contestants run in turns, one round each, and the table gives the median round, so that a busy
moment of the machine hurts all of them alike. The peers come from `pip install -e ".[benchmark]"`.
"""

import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import minisora
from minisora.device import fast_bfloat16, keep_memory
from minisora.dit import DiT
from minisora.patches import positions
from minisora.vae import VAE, vae_loss

BATCH, TEXT, CHANNELS, GRID = 64, 7, 16, (5, 4, 4)  # 80 video and 7 text tokens
WIDTH, DEPTH, HEADS = 192, 6, 6
ROUNDS = 7


def in_turns(
    contestants: dict[str, Callable[[], object]], rounds: int = ROUNDS
) -> dict[str, float]:
    """Median seconds of each contestant."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            started = time.perf_counter()
            contestant()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) for name, each in seconds.items()}


def table(heads: list[str], rows: list[list[object]]) -> None:
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")
    print(flush=True)


def trained(
    model: nn.Module, forward: Callable[[], Tensor], dtype: torch.dtype
) -> Callable[[], None]:
    """One forward and backward pass, with autocast if the type is not float32."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = forward().float().square().mean()
        loss.backward()

    return step


def ours(
    width: int = WIDTH, grid: tuple[int, int, int] = GRID, batch: int = BATCH
) -> tuple[nn.Module, Callable]:
    model = DiT(f"{width}x{DEPTH}", CHANNELS)
    where, t = positions(grid), torch.rand(batch)  # (N, 3), (B,)
    x, text = torch.randn(batch, len(where), 4 * CHANNELS), torch.randn(batch, TEXT, 128)
    return model, lambda: model(x, t, text, where)


def peers() -> dict[str, tuple[nn.Module, Callable]]:
    from diffusers import (
        CogVideoXTransformer3DModel,
        LatteTransformer3DModel,
        WanTransformer3DModel,
    )

    frames, side = GRID[0], 2 * GRID[1]
    shape = {
        "num_attention_heads": HEADS,
        "attention_head_dim": WIDTH // HEADS,
        "num_layers": DEPTH,
    }
    shape |= {"in_channels": CHANNELS, "out_channels": CHANNELS}
    text, t = torch.randn(BATCH, TEXT, 128), torch.randint(0, 1000, (BATCH,))
    clip = torch.randn(BATCH, CHANNELS, frames, side, side)
    cog = CogVideoXTransformer3DModel(
        **shape, text_embed_dim=128, max_text_seq_length=TEXT, time_embed_dim=WIDTH, patch_size=2,
        sample_width=side, sample_height=side, sample_frames=1 + 4 * (frames - 1),
    )  # fmt: skip
    wan = WanTransformer3DModel(
        **shape, patch_size=(1, 2, 2), text_dim=128, freq_dim=128, ffn_dim=4 * WIDTH
    )
    latte = LatteTransformer3DModel(
        **shape, sample_size=side, patch_size=2, video_length=frames, caption_channels=128,
        cross_attention_dim=WIDTH, norm_type="ada_norm_single",
    )  # fmt: skip
    return {
        "CogVideoX": (cog, lambda: cog(clip.transpose(1, 2), text, t).sample),
        "Wan": (wan, lambda: wan(clip, t, text).sample),
        "Latte (twice the blocks)": (latte, lambda: latte(clip, t, text).sample),
    }


def products(dtype: torch.dtype) -> Callable[[], None]:
    """The matrix products of our Linears, forward and backward, and nothing else."""
    model, forward = ours()
    shapes: list[tuple[int, int, int]] = []
    hooks = [
        layer.register_forward_hook(
            lambda layer, inputs, _: shapes.append(
                (inputs[0].numel() // inputs[0].shape[-1], *layer.weight.shape)
            )
        )
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    ]
    with torch.no_grad():
        forward()
    for hook in hooks:
        hook.remove()
    made = {
        s: [torch.randn(a, b, dtype=dtype) for a, b in ((s[0], s[2]), (s[1], s[2]), (s[0], s[1]))]
        for s in shapes
    }

    def multiply() -> None:
        for shape in shapes:
            x, w, g = made[shape]
            _ = x @ w.T, g @ w, g.T @ x  # output, gradient of the input, gradient of the weight

    return multiply


def attention_products(dtype: torch.dtype) -> Callable[[], None]:
    """The products of queries and keys and of weights and values, likewise."""
    tokens, head = GRID[0] * GRID[1] * GRID[2], WIDTH // HEADS
    q, g = torch.randn(2, BATCH, HEADS, tokens, head, dtype=dtype)
    k, v = torch.randn(2, BATCH, HEADS, tokens + TEXT, head, dtype=dtype)
    weights, gradient = torch.randn(2, BATCH, HEADS, tokens, tokens + TEXT, dtype=dtype)

    def multiply() -> None:
        for _ in range(DEPTH):
            _ = q @ k.mT, gradient @ k, gradient.mT @ q
            _ = weights @ v, g @ v.mT, weights.mT @ g

    return multiply


def step() -> None:
    models = {"minisora": ours(), **peers()}
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        del kinds["bfloat16"]  # emulated, 13 times as slow: it would take a quarter of an hour
    contestants: dict[str, Callable[[], object]] = {}
    for kind, dtype in kinds.items():
        contestants[f"products of the Linears alone, {kind}"] = products(dtype)
        contestants[f"products of attention alone, {kind}"] = attention_products(dtype)
        for name, (model, forward) in models.items():
            contestants[f"{name}, {kind}"] = trained(model, forward, dtype)
    seconds = in_turns(contestants)
    print(
        f"Forward and backward at width {WIDTH}, depth {DEPTH}, {BATCH} clips of 80 video and {TEXT} text tokens:\n"
    )
    rows = []
    for name in ("products of the Linears alone", "products of attention alone", *models):
        each = [1000 * seconds[f"{name}, {kind}"] for kind in kinds]
        count = sum(p.numel() for p in models[name][0].parameters()) / 1e6 if name in models else 0
        best = 1000 * min(seconds[f"minisora, {kind}"] for kind in kinds)
        rows.append(
            [
                name,
                f"{count:.2f} M" if count else "",
                *(f"{ms:.0f} ms" for ms in each),
                f"{min(each) / best:.2f}",
            ]
        )
    table(["", "parameters", *kinds, "best, relative to minisora's best"], rows)


def vae() -> None:
    from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan

    mine = VAE(channels=16, space=4, width=64, depth=3)
    cog = AutoencoderKLCogVideoX(
        block_out_channels=(16, 24, 24, 32), layers_per_block=1, norm_num_groups=8, latent_channels=16,
    )  # fmt: skip
    wan = AutoencoderKLWan(base_dim=16, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1)
    clips = torch.rand(8, 3, 17, 32, 32) * 2 - 1
    with torch.inference_mode():
        latents = {name: f(clips) for name, f in {
            "minisora": mine.encode,
            "AutoencoderKLCogVideoX": lambda x: cog.encode(x).latent_dist.mode(),
            "AutoencoderKLWan": lambda x: wan.encode(x).latent_dist.mode(),
        }.items()}  # fmt: skip
        encode = in_turns({
            "minisora": lambda: mine.encode(clips),
            "AutoencoderKLCogVideoX": lambda: cog.encode(clips),
            "AutoencoderKLWan": lambda: wan.encode(clips),
        })  # fmt: skip
        decode = in_turns({
            "minisora": lambda: mine.decode(latents["minisora"]),
            "AutoencoderKLCogVideoX": lambda: cog.decode(latents["AutoencoderKLCogVideoX"]),
            "AutoencoderKLWan": lambda: wan.decode(latents["AutoencoderKLWan"]),
        })  # fmt: skip
    print("Encoding and decoding 8 clips of 17 frames of 32 x 32, float32:\n")
    rows = []
    for (name, latent), model in zip(latents.items(), (mine, cog, wan), strict=True):
        count = sum(p.numel() for p in model.parameters()) / 1e6
        rows.append(
            [
                name,
                f"{count:.2f} M",
                tuple(latent.shape[1:]),
                f"{1000 * encode[name]:.0f} ms",
                f"{1000 * decode[name]:.0f} ms",
            ]
        )
    table(["", "parameters", "latent of a clip", "encode", "decode"], rows)


def scaling() -> None:
    best = torch.bfloat16 if fast_bfloat16("cpu") else torch.float32
    grids = {
        80: (5, 4, 4),
        160: (10, 4, 4),
        320: (5, 8, 8),
        640: (10, 8, 8),
        1280: (20, 8, 8),
        2560: (10, 16, 16),
    }
    print(
        f"Forward and backward at width {WIDTH}, 5,120 video tokens in all, in clips of so many tokens:\n"
    )
    runs = {n: trained(*ours(grid=grid, batch=5120 // n), best) for n, grid in grids.items()}
    seconds = in_turns({str(n): run for n, run in runs.items()}, rounds=5)
    first = seconds["80"]
    table(
        ["tokens", "time", "relative to 80"],
        [[n, f"{1000 * s:.0f} ms", f"{s / first:.2f}"] for n, s in seconds.items()],
    )
    print(f"The same at {BATCH} clips of 80 tokens, by width:\n")
    widths = {width: trained(*ours(width), best) for width in (64, 128, 192, 256, 384)}
    seconds = in_turns({str(width): run for width, run in widths.items()}, rounds=5)
    table(
        ["width", "time", "relative to 192"],
        [[w, f"{1000 * s:.0f} ms", f"{s / seconds['192']:.2f}"] for w, s in seconds.items()],
    )


def sampling() -> None:
    sora = minisora.Sora.from_pretrained()
    prompt = "a small red circle moving right on a black background"
    seconds = in_turns({str(n): lambda n=n: sora([prompt] * n) for n in (1, 4, 16, 64)}, rounds=5)
    print("Sampling with the default settings, prompt to frames:\n")
    table(
        ["clips", "time", "a clip"],
        [[n, f"{s:.2f} s", f"{s / int(n):.3f} s"] for n, s in seconds.items()],
    )


def sizes() -> None:
    sora = minisora.Sora.from_pretrained()
    prompt = "a small red circle moving right on a black background"
    shapes = [(17, *size) for size in sora.trained_on["sizes"]] + [(1, 32, 32), (33, 32, 32)]
    seconds = in_turns(
        {shape: lambda s=shape: sora([prompt] * 8, *s) for shape in shapes}, rounds=5
    )
    usual = seconds[17, 32, 32]
    print("Sampling 8 clips at once, by size and length:\n")
    table(
        ["frames", "size", "a clip", "beside the usual"],
        [
            [t, f"{h} x {w}", f"{s / 8:.3f} s", f"{s / usual:.2f}"]
            for (t, h, w), s in seconds.items()
        ],
    )


def packing() -> None:
    """One training step on the shipped mix of sizes and lengths, in three ways."""
    grids = [
        (5, 4, 4),
        (1, 4, 4),
        (9, 4, 4),
        (5, 3, 5),
        (5, 4, 7),
        (9, 3, 3),
        (5, 6, 6),
        (5, 3, 3),
    ]
    grids = [grids[i % len(grids)] for i in range(40)]  # 3,320 tokens
    dit, text = DiT("laptop", pooled=False), torch.randn(len(grids), 16, 128)
    clips = [(torch.randn(1, math.prod(g), 32), positions(g)[None]) for g in grids]
    counts = [x.shape[1] for x, _ in clips]
    total, most = sum(counts), max(counts)

    def backward(out: Tensor) -> None:
        out.float().square().mean().backward()

    def buckets() -> None:
        for grid in set(grids):
            same = [i for i, other in enumerate(grids) if other == grid]
            x = torch.cat([clips[i][0] for i in same])  # (B, N, P)
            backward(dit(x, torch.rand(len(same)), text[same], positions(grid)))

    def largest() -> None:
        x = torch.cat([F.pad(x, (0, 0, 0, most - x.shape[1])) for x, _ in clips])
        where = torch.cat([F.pad(p, (0, 0, 0, most - p.shape[1]), value=1.0) for _, p in clips])
        backward(dit(x, torch.rand(len(clips)), text, where))

    def packed() -> None:
        x, where = (torch.cat(parts, dim=1) for parts in zip(*clips, strict=True))
        levels = torch.rand(len(clips)).repeat_interleave(torch.tensor(counts))[None]  # (1, N)
        backward(dit(x, levels, text, where, counts))

    def cast(step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            dit.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16("cpu")):
                step()

        return run

    ways = {
        "buckets of one size": buckets,
        "packed into a row": packed,
        "padded to the largest": largest,
    }
    seconds = in_turns({name: cast(step) for name, step in ways.items()})
    padding = {"padded to the largest": 1 - total / (most * len(grids))}
    print(
        f"A step on {len(grids)} clips of {len(set(grids))} sizes and lengths, {total} tokens:\n"
    )
    table(
        ["clips are", "a step", "a token", "padding"],
        [
            [
                name,
                f"{1000 * s:.0f} ms",
                f"{1e6 * s / total:.0f} us",
                f"{padding.get(name, 0):.0%}",
            ]
            for name, s in seconds.items()
        ],
    )


def profile() -> None:
    from torch.profiler import profile as recorder

    run = trained(*ours(), torch.bfloat16 if fast_bfloat16("cpu") else torch.float32)
    run()
    with recorder() as recorded:
        for _ in range(3):
            run()
    events = sorted(recorded.key_averages(), key=lambda e: -e.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events)
    print("Where the time of forward and backward goes:\n")
    table(
        ["operation", "share"],
        [
            [e.key.removeprefix("aten::"), f"{100 * e.self_cpu_time_total / whole:.0f}%"]
            for e in events[:10]
        ],
    )


def allocator() -> None:
    """Each measurement in a process of its own, since memory once kept stays kept."""
    results: dict[str, list[list[float]]] = {"glibc's own way": [], "keep_memory()": []}
    for _ in range(3):
        for name in results:
            call = [sys.executable, __file__, "one-step", str(name == "keep_memory()")]
            said = subprocess.run(call, capture_output=True, text=True, check=True).stdout
            results[name].append(json.loads(said))
    print("A training step of the VAE, batch 16, and of the transformer as above:\n")
    rows = []
    for name, rounds in results.items():
        medians = [statistics.median(each) for each in zip(*rounds, strict=True)]
        rows.append(
            [
                name,
                f"{medians[0]:.0f} ms",
                f"{medians[1]:,.0f}",
                f"{medians[2]:.0f} ms",
                f"{medians[3]:,.0f}",
            ]
        )
    table(["memory", "VAE", "page faults", "transformer", "page faults"], rows)


def one_step(keep: str) -> None:
    """Prints milliseconds and page faults of a step of the VAE and of the transformer."""
    if keep == "True":
        keep_memory()
    mine = VAE(channels=16, space=4, width=64, depth=3)
    clips = torch.rand(16, 3, 17, 32, 32) * 2 - 1
    steps = (
        lambda: vae_loss(mine, clips, torch.Generator(), 1e-5)[0].backward(),
        trained(*ours(), torch.float32),
    )
    said = []
    for step in steps:
        for _ in range(3):
            step()
        faults, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        for _ in range(6):
            step()
        said.append((time.perf_counter() - started) / 6 * 1000)
        said.append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / 6)
    print(json.dumps(said))


PARTS = {
    "step": step,
    "vae": vae,
    "scaling": scaling,
    "sampling": sampling,
    "sizes": sizes,
    "packing": packing,
    "profile": profile,
    "allocator": allocator,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["one-step"]:
        one_step(sys.argv[2])
        sys.exit()
    keep_memory()
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}\n"
    )
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()
