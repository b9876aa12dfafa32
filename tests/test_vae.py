import pytest
import torch
from conftest import shake

from minisora import InputError
from minisora.data import ClipData
from minisora.vae import VAE, grouped, vae_loss


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return shake(VAE(channels=6, space=4, width=16, depth=2))


@pytest.fixture
def video() -> torch.Tensor:
    return torch.rand(2, 3, 13, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_shapes(vae: VAE, video: torch.Tensor) -> None:
    latents = vae.encode(video)
    assert latents.shape == (2, 6, 4, 4, 6)
    assert vae.decode(latents).shape == video.shape
    assert VAE(channels=6, space=8, width=16, depth=1).encode(video).shape == (2, 6, 4, 2, 3)


def test_a_latent_is_a_picture_of_its_own_group(vae: VAE, video: torch.Tensor) -> None:
    latents = vae.encode(video)
    other = torch.randn(video.shape)
    other[:, :, 5:9] = video[:, :, 5:9]  # only the third group stays
    changed = vae.encode(other)
    assert torch.equal(changed[:, :, 2], latents[:, :, 2])
    assert (
        not torch.isclose(changed[:, :, [0, 1, 3]], latents[:, :, [0, 1, 3]])
        .all(dim=(0, 1, 3, 4))
        .any()
    )


def test_decoder_is_causal(vae: VAE, video: torch.Tensor) -> None:
    latents = vae.encode(video)
    frames = vae.decode(latents)
    later = latents.clone()
    later[:, :, 2:] = 0
    assert torch.equal(vae.decode(later)[:, :, :5], frames[:, :, :5])
    earlier = latents.clone()
    earlier[:, :, 1] = 0
    assert not torch.allclose(
        vae.decode(earlier)[:, :, 5:9], frames[:, :, 5:9]
    )  # and does join the groups


def test_an_image_is_a_one_frame_video(vae: VAE, video: torch.Tensor) -> None:
    image = vae.encode(video[:, :, :1])
    assert torch.allclose(image, vae.encode(video)[:, :, :1], atol=1e-5)
    assert torch.allclose(vae.decode(image), vae.decode(vae.encode(video))[:, :, :1], atol=1e-5)


def test_streams_equal_the_whole(vae: VAE) -> None:
    video = torch.rand(1, 3, 29, 16, 16) * 2 - 1  # longer than the decoder looks back
    latents = vae.encode(video)
    streamed = torch.cat(list(vae.encode_stream(video.unbind(2))), dim=2)
    assert torch.allclose(streamed, latents, atol=1e-5)
    frames = torch.cat(list(vae.decode_stream(latents.split(1, dim=2))), dim=2)
    assert torch.allclose(frames, vae.decode(latents), atol=1e-5)


def test_starts_as_the_best_linear_code() -> None:
    data = ClipData(clips=24, batch_size=24)
    data.setup("fit")
    video = data.batch(0)["video"]
    vae = VAE(channels=8, space=4, width=16, depth=1)
    vae.start_from_pca(video)
    patches = vae.fold(grouped(video))
    centered = (patches - patches.mean((0, 2, 3, 4), keepdim=True)).transpose(0, 1).flatten(1)
    lost = torch.linalg.svdvals(centered.double())[8:].square().sum()
    error = (vae.decode_linear(vae.encode(video)) - patches).square().sum()
    assert torch.isclose(error.double(), lost, rtol=1e-3)
    assert 0.8 < vae.encode(video).square().mean() < 1.2


def test_training_beats_its_start() -> None:
    data = ClipData(clips=32, batch_size=16)
    data.setup("fit")
    torch.manual_seed(0)
    vae = VAE(channels=8, space=4, width=16, depth=1)
    vae.start_from_pca(data.batch(0)["video"])
    optimizer = torch.optim.Adam(vae.parameters(), 1e-3)
    errors = []
    for step in range(20):
        loss, error, _ = vae_loss(
            vae, data.batch(step)["video"], torch.Generator().manual_seed(step), kl_weight=1e-5
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(error.item())
    assert sum(errors[-4:]) < 0.95 * sum(errors[:4])


def test_bad_input(vae: VAE, video: torch.Tensor) -> None:
    with pytest.raises(
        InputError, match=r"takes 1 \+ 4k frames, got 12: the nearest are 9 and 13"
    ):
        vae.encode(video[:, :, :12])
    with pytest.raises(InputError, match="multiples of 4, got 15 x 24"):
        vae.encode(video[:, :, :, :15])
    with pytest.raises(InputError, match="2 frames short of a group"):
        list(vae.encode_stream(video[:, :, :7].unbind(2)))
    with pytest.raises(InputError, match="depth must be 1 or more, got 0"):
        VAE(depth=0)
    with pytest.raises(InputError, match="a patch has 48 numbers, 64 channels"):
        VAE(channels=64, space=2)
