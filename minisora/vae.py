"""The video VAE: compresses time by 4 and space by 4 or 8. An image is a one-frame video.

Frames form groups: the first frame alone (repeated to fill its group), then fours. The encoder
works inside one group, so a latent depends on its own four frames only. The decoder is causal over
groups and joins them. Both start as the linear PCA of patches; convolutions learn a correction.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minisora.errors import InputError, check_counts, check_sizes

GROUP = 4  # frames in a group


def to_pixels(frames: np.ndarray | Tensor) -> Tensor:
    """uint8 (B, T, H, W, 3) -> float (B, 3, T, H, W) in [-1, 1]."""
    return torch.as_tensor(frames).movedim(-1, 1).float() / 127.5 - 1


def to_frames(video: Tensor) -> np.ndarray:
    """(B, 3, T, H, W), clipped to [-1, 1] -> uint8 (B, T, H, W, 3)."""
    return ((video.float().clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()


def group_frames(video: Tensor) -> Tensor:
    """Repeats the first frame to fill its group: (B, 3, 1 + 4k, H, W) -> (B, 3, 4 + 4k, H, W).
    Raises InputError for other frame counts."""
    if video.shape[2] % GROUP != 1:
        near = max(1, (video.shape[2] - 1) // GROUP * GROUP + 1)
        raise InputError(
            f"the VAE takes 1 + 4k frames, got {video.shape[2]}: "
            f"the nearest are {near} and {near + GROUP}"
        )
    return torch.cat([video[:, :, :1].expand(-1, -1, GROUP - 1, -1, -1), video], dim=2)


class RMSNorm(nn.Module):
    """Divides the channels at each position by their root mean square: (B, C, ...) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        # F.normalize divides by the norm, which is sqrt(C) times the root mean square
        gain = self.gain * self.gain.numel() ** 0.5  # (C,)
        return F.normalize(x, dim=1) * gain.view(-1, *[1] * (x.ndim - 2))  # (B, C, ...)


class CausalConv(nn.Conv3d):
    """A 3 x 3 convolution over space that also sees the `kernel` - 1 groups before, none after."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, (kernel, 3, 3), padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        before = self.kernel_size[0] - 1  # zeros in front keep the number of groups
        return super().forward(F.pad(x, (0, 0, 0, 0, before, 0)))  # (B, outputs, t, h, w)


class Block(nn.Module):
    """A residual block. `kernel` 1 stays inside a group, 2 also sees the group before."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.first = CausalConv(width, width, kernel)
        self.second = CausalConv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(self.norm(x))))  # (B, width, t, h, w)


def trunk(inputs: int, outputs: int, width: int, depth: int, kernel: int) -> nn.Sequential:
    """Residual blocks between two linear layers. The last one starts at zero."""
    last = nn.Conv3d(width, outputs, 1)
    for p in last.parameters():
        nn.init.zeros_(p)
    blocks = [Block(width, kernel) for _ in range(depth)]
    return nn.Sequential(nn.Conv3d(inputs, width, 1), *blocks, RMSNorm(width), last)


class VAE(nn.Module):
    """Encodes video (B, 3, 1 + 4k, H, W) in [-1, 1] as latents (B, channels, 1 + k, h, w).

    The decoder may be wider and deeper than the encoder; if not said, it is as large.

    Sources: Kingma & Welling, "Auto-Encoding Variational Bayes" (2013); the video compression
    network of the Sora report.
    """

    def __init__(
        self,
        channels: int = 8,
        space: int = 4,
        width: int = 64,
        depth: int = 3,
        decoder_width: int | None = None,
        decoder_depth: int | None = None,
    ) -> None:
        super().__init__()
        decoder_width = width if decoder_width is None else decoder_width
        decoder_depth = depth if decoder_depth is None else decoder_depth
        self.config = {
            "channels": channels, "space": space, "width": width, "depth": depth,
            "decoder_width": decoder_width, "decoder_depth": decoder_depth,
        }  # fmt: skip
        self.channels, self.space, self.decoder_depth = channels, space, decoder_depth
        numbers = 3 * GROUP * space**2  # in a patch
        check_sizes(channels=channels, width=width, depth=depth)
        check_sizes(decoder_width=decoder_width, decoder_depth=decoder_depth)
        check_counts(1, 64, space=space)
        if channels > numbers:
            raise InputError(
                f"a patch has {numbers} numbers, {channels} channels are no compression: set fewer"
            )
        self.encode_linear = nn.Conv3d(numbers, channels, 1)
        self.decode_linear = nn.Conv3d(channels, numbers, 1)
        self.encoder = trunk(numbers, 2 * channels, width, depth, kernel=1)
        self.decoder = trunk(channels, numbers, decoder_width, decoder_depth, kernel=2)

    def fold(self, groups: Tensor) -> Tensor:
        """Cuts groups into patches: (B, 3, 4t, H, W) -> (B, numbers, t, h, w)."""
        height, width = groups.shape[3:]
        if height % self.space or width % self.space:
            raise InputError(f"sizes must be multiples of {self.space}, got {height} x {width}")
        cut = {"f": GROUP, "p": self.space, "q": self.space}
        return rearrange(groups, "b c (t f) (h p) (w q) -> b (c f p q) t h w", **cut)

    def unfold(self, patches: Tensor) -> Tensor:
        """The inverse of `fold`: (B, numbers, t, h, w) -> (B, 3, 4t, H, W)."""
        cut = {"c": 3, "f": GROUP, "p": self.space, "q": self.space}
        return rearrange(patches, "b (c f p q) t h w -> b c (t f) (h p) (w q)", **cut)

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents, (B, channels, 1 + k, h, w) each. Raises InputError
        unless there are 1 + 4k frames with sides that are multiples of `space`."""
        return self._encode_groups(group_frames(video))

    def encode(self, video: Tensor) -> Tensor:
        """The mean of the posterior: (B, 3, 1 + 4k, H, W) -> (B, channels, 1 + k, h, w)."""
        return self.posterior(video)[0]

    def _encode_groups(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.fold(groups)  # (B, numbers, t, h, w)
        residual, log_variance = self.encoder(patches).chunk(2, dim=1)  # (B, channels, t, h, w)
        # training starts with little noise, a standard deviation of e^-3, and adjusts it
        return self.encode_linear(patches) + residual, (log_variance - 6.0).clamp(-14.0, 4.0)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, channels, 1 + k, h, w) -> video (B, 3, 1 + 4k, H, W)."""
        # of the first group only the last frame is kept, the others are its copies
        return self._decode_groups(latents)[:, :, GROUP - 1 :]  # (B, 3, 1 + 4k, H, W)

    def _decode_groups(self, latents: Tensor) -> Tensor:
        # (B, channels, t, h, w) -> (B, numbers, t, h, w) -> (B, 3, 4t, H, W)
        return self.unfold(self.decode_linear(latents) + self.decoder(latents))

    def encode_stream(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encodes frames (B, 3, H, W) as they arrive: one latent (B, channels, 1, h, w) per group.

        Raises InputError if the stream ends inside a group.
        """
        group: list[Tensor] = []
        for number, frame in enumerate(frames):
            group.append(frame)
            if number == 0:
                group = group * GROUP  # the first frame is repeated
            if len(group) == GROUP:
                yield self._encode_groups(torch.stack(group, dim=2))[0]  # (B, channels, 1, h, w)
                group = []
        if group:
            short = GROUP - len(group)
            raise InputError(
                f"the VAE takes 1 + 4k frames: the stream ended {short} frames short of a group"
            )

    def decode_stream(self, latents: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decodes latents (B, channels, 1, h, w) as they arrive: one frame, then four for each."""
        past: list[Tensor] = []
        for number, latent in enumerate(latents):
            # each block sees one group back, so the decoder sees `decoder_depth` of them
            past = [*past[-self.decoder_depth :], latent]
            frames = self._decode_groups(torch.cat(past, dim=2))[:, :, -GROUP:]  # (B, 3, 4, H, W)
            yield frames if number else frames[:, :, GROUP - 1 :]

    @torch.no_grad()
    def start_from_pca(self, video: Tensor) -> None:
        """Sets the linear layers to the PCA of the video's patches, the best linear code.

        Latents keep 30% of the spread between principal components (in logarithms), so growing
        noise hides fine detail first and the layout last. Their mean square is 1.
        """
        folded = self.fold(group_frames(video))  # (B, numbers, t, h, w)
        patches = rearrange(folded, "b n t h w -> (b t h w) n").double()  # (M, numbers)
        mean = patches.mean(0)  # (numbers,)
        covariance = (patches - mean).T @ (patches - mean) / len(patches)  # (numbers, numbers)
        variances, directions = torch.linalg.eigh(covariance)  # in ascending order
        top = directions[:, -self.channels :].flip(1)  # (numbers, channels)
        deviation = variances[-self.channels :].flip(0).clamp(min=1e-8).sqrt()  # (channels,)
        # latents get the standard deviation deviation^0.3, up to a common factor
        gain = deviation**-0.7 / (deviation**0.6).mean().sqrt()  # (channels,)
        for layer, weight, bias in (
            (self.encode_linear, (top * gain).T, -(top * gain).T @ mean),
            (self.decode_linear, top / gain, mean),
        ):
            layer.load_state_dict({"weight": weight[..., None, None, None], "bias": bias})


def vae_loss(
    vae: VAE, video: Tensor, generator: torch.Generator, kl_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the mean square error per pixel, and the KL divergence from N(0, 1) per latent
    number, three scalars. video: (B, 3, 1 + 4k, H, W)."""
    mean, log_variance = vae.posterior(video)  # (B, channels, 1 + k, h, w) each
    eps = torch.randn(mean.shape, generator=generator).to(mean)  # (B, channels, 1 + k, h, w)
    rebuilt = vae.decode(mean + (0.5 * log_variance).exp() * eps)  # (B, 3, 1 + 4k, H, W)
    error = F.mse_loss(rebuilt.float(), video)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return error + kl_weight * kl, error, kl
