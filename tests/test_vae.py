import numpy as np
import pytest
import torch
from conftest import shake

from minisora import InputError, world
from minisora.vae import VAE, group_frames, to_frames, to_pixels, vae_loss


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return shake(VAE(channels=6, space=4, width=16, depth=2))


@pytest.fixture
def video() -> torch.Tensor:
    return torch.rand(2, 3, 13, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def world_clips(start: int, stop: int) -> torch.Tensor:
    """Training clips of the toy world: (B, 3, 17, 32, 32)."""
    return to_pixels(np.stack([world.clip(0, i).frames for i in range(start, stop)]))


def test_frames_survive_the_way_to_pixels_and_back() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 6, 3), dtype=np.uint8)
    assert np.array_equal(to_frames(to_pixels(frames)), frames)


def test_pixels_range_from_minus_one_to_one() -> None:
    frames = np.array([0, 255], dtype=np.uint8).repeat(3).reshape(1, 1, 1, 2, 3)
    assert to_pixels(frames).flatten().tolist() == [-1, 1] * 3


def test_frames_are_clipped() -> None:
    pixels = torch.tensor([-7.0, 7.0]).expand(1, 3, 1, 1, 2)
    assert to_frames(pixels).flatten().tolist() == [0] * 3 + [255] * 3


@pytest.mark.parametrize(("space", "side"), [(4, (4, 6)), (8, (2, 3))], ids=["4x4", "8x8"])
def test_shape_of_latents(video: torch.Tensor, space: int, side: tuple[int, int]) -> None:
    vae = VAE(channels=6, space=space, width=16, depth=1)
    assert vae.encode(video).shape == (2, 6, 4, *side)


def test_decoding_restores_the_shape(vae: VAE, video: torch.Tensor) -> None:
    assert vae.decode(vae.encode(video)).shape == video.shape


def test_a_latent_depends_on_its_own_group_only(vae: VAE, video: torch.Tensor) -> None:
    other = torch.randn(video.shape)
    other[:, :, 5:9] = video[:, :, 5:9]  # only the third group stays
    latents, changed = vae.encode(video), vae.encode(other)
    assert torch.equal(changed[:, :, 2], latents[:, :, 2])
    same = torch.isclose(changed, latents).all(dim=(0, 1, 3, 4))  # (groups,)
    assert same.tolist() == [False, False, True, False]


def test_the_decoder_sees_no_later_group(vae: VAE, video: torch.Tensor) -> None:
    latents = vae.encode(video)
    later = latents.clone()
    later[:, :, 2:] = 0
    assert torch.equal(vae.decode(later)[:, :, :5], vae.decode(latents)[:, :, :5])


def test_the_decoder_sees_earlier_groups(vae: VAE, video: torch.Tensor) -> None:
    latents = vae.encode(video)
    earlier = latents.clone()
    earlier[:, :, 1] = 0
    assert not torch.allclose(vae.decode(earlier)[:, :, 5:9], vae.decode(latents)[:, :, 5:9])


def test_an_image_is_a_one_frame_video(vae: VAE, video: torch.Tensor) -> None:
    latents, image = vae.encode(video), vae.encode(video[:, :, :1])
    assert torch.allclose(image, latents[:, :, :1], atol=1e-5)
    assert torch.allclose(vae.decode(image), vae.decode(latents)[:, :, :1], atol=1e-5)


@pytest.fixture
def long_video() -> torch.Tensor:
    """Longer than the decoder looks back."""
    return torch.rand(1, 3, 29, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_an_encoded_stream_equals_the_encoded_video(vae: VAE, long_video: torch.Tensor) -> None:
    streamed = torch.cat(list(vae.encode_stream(long_video.unbind(2))), dim=2)
    assert torch.allclose(streamed, vae.encode(long_video), atol=1e-5)


def test_a_decoded_stream_equals_the_decoded_video(vae: VAE, long_video: torch.Tensor) -> None:
    latents = vae.encode(long_video)
    frames = torch.cat(list(vae.decode_stream(latents.split(1, dim=2))), dim=2)
    assert torch.allclose(frames, vae.decode(latents), atol=1e-5)


@pytest.fixture
def deep() -> VAE:
    """A VAE whose decoder is wider and deeper than its encoder."""
    sizes = {"width": 16, "depth": 1, "decoder_width": 24, "decoder_depth": 3}
    return shake(VAE(channels=6, space=4, **sizes))


def test_the_decoder_may_be_larger_than_the_encoder(deep: VAE) -> None:
    blocks = [len(part[1:-2]) for part in (deep.encoder, deep.decoder)]  # without norm and ends
    widths = [part[0].out_channels for part in (deep.encoder, deep.decoder)]
    assert (widths, blocks) == ([16, 24], [1, 3])


def test_if_not_said_the_decoder_is_as_large(vae: VAE) -> None:
    """So configs from before it could differ build what they did."""
    assert (vae.config["decoder_width"], vae.config["decoder_depth"]) == (16, 2)


def test_the_config_builds_both_again(deep: VAE) -> None:
    VAE(**deep.config).load_state_dict(deep.state_dict())


def test_a_deep_decoder_streams_as_well(deep: VAE, long_video: torch.Tensor) -> None:
    """It looks back as many groups as it has blocks."""
    latents = deep.encode(long_video)
    frames = torch.cat(list(deep.decode_stream(latents.split(1, dim=2))), dim=2)
    assert torch.allclose(frames, deep.decode(latents), atol=1e-5)


@pytest.mark.parametrize("name", ["decoder_width", "decoder_depth"])
def test_a_decoder_without_size_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} must be 1 or more, got 0"):
        VAE(**{name: 0})


@pytest.fixture(scope="module")
def pca_start() -> tuple[VAE, torch.Tensor]:
    torch.manual_seed(0)
    vae, video = VAE(channels=8, space=4, width=16, depth=1), world_clips(0, 24)
    vae.start_from_pca(video)
    return vae, video


def test_starts_as_the_best_linear_code(pca_start) -> None:
    """Its squared error is that of the singular values beyond its channels."""
    vae, video = pca_start
    patches = vae.fold(group_frames(video))  # (B, numbers, t, h, w)
    centered = (patches - patches.mean((0, 2, 3, 4), keepdim=True)).transpose(0, 1).flatten(1)
    lost = torch.linalg.svdvals(centered.double())[8:].square().sum()
    error = (vae.decode_linear(vae.encode(video)) - patches).square().sum()
    assert torch.isclose(error.double(), lost, rtol=1e-3)


def test_starts_with_latents_of_mean_square_one(pca_start) -> None:
    vae, video = pca_start
    assert 0.8 < vae.encode(video).square().mean() < 1.2


def test_training_improves_on_the_linear_start() -> None:
    torch.manual_seed(0)
    vae, batches = VAE(channels=8, space=4, width=16, depth=1), world_clips(0, 32).split(16)
    vae.start_from_pca(batches[0])
    optimizer = torch.optim.Adam(vae.parameters(), 1e-3)
    errors = []
    for step in range(20):
        draws = torch.Generator().manual_seed(step)
        loss, error, _ = vae_loss(vae, batches[step % 2], draws, kl_weight=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(error.item())
    assert sum(errors[-4:]) < 0.95 * sum(errors[:4])


def test_frame_counts_must_be_one_more_than_a_multiple_of_four(vae: VAE, video) -> None:
    with pytest.raises(
        InputError, match=r"takes 1 \+ 4k frames, got 12: the nearest are 9 and 13"
    ):
        vae.encode(video[:, :, :12])


def test_sizes_must_be_multiples_of_the_patch(vae: VAE, video: torch.Tensor) -> None:
    with pytest.raises(InputError, match="multiples of 4, got 15 x 24"):
        vae.encode(video[:, :, :, :15])


def test_a_stream_must_end_with_a_whole_group(vae: VAE, video: torch.Tensor) -> None:
    with pytest.raises(InputError, match="2 frames short of a group"):
        list(vae.encode_stream(video[:, :, :7].unbind(2)))


def test_depth_must_be_positive() -> None:
    with pytest.raises(InputError, match="depth must be 1 or more, got 0"):
        VAE(depth=0)


def test_more_channels_than_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="a patch has 48 numbers, 64 channels"):
        VAE(channels=64, space=2)
