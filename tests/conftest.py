"""What several test files share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from minisora import weights
from minisora.cli import main
from minisora.dit import DiT
from minisora.sora import Sora
from minisora.text import TextEncoder
from minisora.vae import VAE
from minisora.world import WORDS

TRAINED_ON = {
    "worlds": ["shapes"],
    "sizes": [[32, 32]],
    "durations": [1, 5, 9, 13, 17],
    "modes": ["text"],
    "fps": 8,
}
CONFIGS = Path(__file__).parent.parent / "configs"
# configs that do not have the name of theirs
STAGE_OF = {"decoder": "vae", "generalist": "dit", "generalist_captioner": "captioner"}
DEFAULTS = {"num_inference_steps": 2, "guidance_scale": 2.0, "shift": 3.0, "sampler": "euler"}


def shake(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Moves every parameter, zeros too, so that no layer is still the identity it starts as."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return module.eval()


def stage_of(config: Path) -> str:
    """What `minisora fit` trains with a config."""
    return STAGE_OF.get(config.stem, config.stem)


def fit(stage: str, root: Path, *arguments: str) -> None:
    """Trains with the tiny config, as users do. Everything goes to <root>/<stage>."""
    config = f"--config={CONFIGS}/tiny/{stage}.yaml"
    folder = f"--trainer.default_root_dir={root / stage}"
    main(["fit", stage, config, folder, "--trainer.enable_progress_bar=false", *arguments])


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The error message of a command that has to end with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


def keep_checkpoints(folder: Path, every: int) -> list[str]:
    """Arguments of `fit` that keep a checkpoint of every `every` steps."""
    return [
        "--trainer.callbacks+=minisora.checkpoints.Checkpoints",
        f"--trainer.callbacks.every={every}",
        "--trainer.callbacks.keep=1000",
        f"--trainer.callbacks.folder={folder}",
    ]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """In the block no file can grow beyond so many bytes, as on a disk that is full."""
    import resource  # not on every system

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny VAE in vae/, a DiT of 60 steps on its latents in dit/, and the DiT's
    checkpoints of steps 30 and 60 in kept/."""
    root = tmp_path_factory.mktemp("runs")
    fit("vae", root)
    fit("dit", root, *keep_checkpoints(root / "kept", 30), f"--data.view.vae={root}/vae/weights")
    return root


@pytest.fixture(scope="session")
def on_vae(trained: Path) -> str:
    """The argument of `fit` that names the tiny VAE."""
    return f"--data.view.vae={trained}/vae/weights"


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a T5 of the real kind, small and untrained."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("t5")
    vocabulary = ["<pad>", "</s>", "<unk>", *sorted(WORDS)]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = transformers.T5Config(
        vocab_size=len(vocabulary), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    )
    torch.manual_seed(0)
    transformers.T5EncoderModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test draws the same numbers each time, and leaves the number of threads as it was."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def in_float32(monkeypatch) -> None:
    """For tests that compare numbers more closely than bfloat16 can: machines that are fast at
    bfloat16 use float32 too."""
    monkeypatch.setattr("minisora.device.fast_bfloat16", lambda _: False)


def untrained_sora() -> Sora:
    """A model of single objects whose clips are noise. It samples in an instant."""
    torch.manual_seed(0)
    vae = shake(VAE(channels=4, space=8, width=16, depth=1))
    text = shake(TextEncoder(sorted(WORDS), width=32, depth=1))
    dit = shake(DiT("tiny", channels=4, patch=(1, 1, 1), text_width=32))
    return Sora(vae, text, dit, TRAINED_ON, DEFAULTS)


@pytest.fixture
def vae_folder(tmp_path: Path) -> str:
    """The bundle of an untrained VAE that encodes 4 channels, each 8 x 8 pixels."""
    weights.save(tmp_path, {}, vae=shake(VAE(channels=4, space=8, width=16, depth=1)))
    return str(tmp_path)


@pytest.fixture
def tiny_sora() -> Sora:
    return untrained_sora()
