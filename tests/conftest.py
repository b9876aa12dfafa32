from collections.abc import Iterator

import pytest
import torch

from minisora.dit import DiT
from minisora.pipeline import Sora
from minisora.text import TextEncoder
from minisora.vae import VAE
from minisora.world import WORDS

MAKES = {"num_frames": 17, "height": 32, "width": 32}
DEFAULTS = {"num_inference_steps": 2, "guidance_scale": 2.0, "shift": 3.0, "sampler": "euler"}


def shake(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Moves every parameter, zeros too, so that nothing is an identity by its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return module.eval()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test draws the same numbers each time, and leaves the threads to the next."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def in_float32(monkeypatch) -> None:
    """Of tests that compare numbers more closely than bfloat16 can, on machines that are fast at it."""
    monkeypatch.setattr("minisora.device.fast_bfloat16", lambda _: False)


@pytest.fixture
def tiny_sora() -> Sora:
    torch.manual_seed(0)
    vae = shake(VAE(channels=4, space=8, width=16, depth=1))
    text = shake(TextEncoder(sorted(WORDS), width=32, depth=1))
    dit = shake(DiT("tiny", channels=4, patch=(1, 1, 1), text_width=32))
    return Sora(vae, text, dit, MAKES, DEFAULTS)
