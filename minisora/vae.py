"""The video VAE: compresses time by 4 and space by 4 or 8. An image is a one-frame video.

Frames form groups: the first frame alone (held for four frames), then fours. The encoder looks
only inside a group, so a latent is a picture of its own four frames and of nothing else. The
decoder is causal over groups and joins them. Both start as the linear PCA of patches; what the
convolutions learn is added to it.
"""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minisora.errors import InputError, check_counts

GROUP = 4  # frames in a group


def grouped(video: Tensor) -> Tensor:
    """Holds the first frame for a whole group: (B, 3, 1 + 4k, H, W) -> (B, 3, 4 + 4k, H, W)."""
    if video.shape[2] % GROUP != 1:
        near = max(1, (video.shape[2] - 1) // GROUP * GROUP + 1)
        raise InputError(
            f"the VAE takes 1 + 4k frames, got {video.shape[2]}: "
            f"the nearest are {near} and {near + GROUP}"
        )
    return torch.cat([video[:, :, :1].expand(-1, -1, GROUP - 1, -1, -1), video], dim=2)


class RMSNorm(nn.Module):
    """Normalizes the channels of every position by their root mean square: (B, C, ...) -> the
    same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * (self.gain * self.gain.numel() ** 0.5).view(
            -1, *[1] * (x.ndim - 2)
        )


class CausalConv(nn.Conv3d):
    """A 3 x 3 convolution that also sees `kernel - 1` groups back in time and none ahead."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, (kernel, 3, 3), padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 0, 0, 0, self.kernel_size[0] - 1, 0)))


class Block(nn.Module):
    """A residual block. `kernel` 1 looks inside a group, 2 one group back."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.first = CausalConv(width, width, kernel)
        self.second = CausalConv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, width, t, h, w)
        return x + self.second(F.silu(self.first(self.norm(x))))


def trunk(inputs: int, outputs: int, width: int, depth: int, kernel: int) -> nn.Sequential:
    """Blocks between two linear layers, the last of which starts at zero."""
    last = nn.Conv3d(width, outputs, 1)
    for p in last.parameters():
        nn.init.zeros_(p)
    blocks = [Block(width, kernel) for _ in range(depth)]
    return nn.Sequential(nn.Conv3d(inputs, width, 1), *blocks, RMSNorm(width), last)


class VAE(nn.Module):
    """Encodes (B, 3, 1 + 4k, H, W) in [-1, 1] to latents (B, channels, 1 + k, H / space, W /
    space) and back.

    Source: Kingma & Welling, "Auto-Encoding Variational Bayes" (2013); the video compression
    network of the Sora report.
    """

    def __init__(self, channels: int = 8, space: int = 4, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.config = {"channels": channels, "space": space, "width": width, "depth": depth}
        self.channels, self.space, self.depth = channels, space, depth
        numbers = 3 * GROUP * space**2  # in a patch
        check_counts(1, channels=channels, space=space, width=width, depth=depth)
        if channels > numbers:
            raise InputError(
                f"a patch has {numbers} numbers, {channels} channels are no compression: set fewer"
            )
        self.encode_linear = nn.Conv3d(numbers, channels, 1)
        self.decode_linear = nn.Conv3d(channels, numbers, 1)
        self.encoder = trunk(numbers, 2 * channels, width, depth, kernel=1)
        self.decoder = trunk(channels, numbers, width, depth, kernel=2)

    def fold(self, groups: Tensor) -> Tensor:
        """Cuts whole groups (B, 3, 4t, H, W) into patches and lays each patch's numbers along the
        channels: (B, numbers, t, h, w)."""
        if any(side % self.space for side in groups.shape[3:]):
            height, width = groups.shape[3:]
            raise InputError(f"sizes must be multiples of {self.space}, got {height} x {width}")
        cut = {"f": GROUP, "p": self.space, "q": self.space}
        return rearrange(groups, "b c (t f) (h p) (w q) -> b (c f p q) t h w", **cut)

    def unfold(self, patches: Tensor) -> Tensor:
        cut = {"c": 3, "f": GROUP, "p": self.space, "q": self.space}
        return rearrange(patches, "b (c f p q) t h w -> b c (t f) (h p) (w q)", **cut)

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents' distribution."""
        return self._encode_groups(grouped(video))

    def encode(self, video: Tensor) -> Tensor:
        return self.posterior(video)[0]

    def _encode_groups(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.fold(groups)  # (B, numbers, t, h, w)
        residual, log_variance = self.encoder(patches).chunk(2, dim=1)  # (B, channels, t, h, w)
        # training starts with little noise, a deviation of e^-3, and finds its own
        return self.encode_linear(patches) + residual, (log_variance - 6.0).clamp(-14.0, 4.0)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, channels, 1 + k, h, w) -> (B, 3, 1 + 4k, H, W). The first group keeps only its last
        frame."""
        return self._decode_groups(latents)[:, :, GROUP - 1 :]

    def _decode_groups(self, latents: Tensor) -> Tensor:
        return self.unfold(self.decode_linear(latents) + self.decoder(latents))

    def encode_stream(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encodes frames (B, 3, H, W) as they come; yields a latent (B, channels, 1, h, w) for
        each finished group.

        Raises InputError if the stream ends inside a group.
        """
        group: list[Tensor] = []
        for number, frame in enumerate(frames):
            group.append(frame)
            if number == 0 or len(group) == GROUP:
                whole = group * GROUP if number == 0 else group  # the first frame is held
                yield self._encode_groups(torch.stack(whole, dim=2))[0]
                group = []
        if group:
            short = GROUP - len(group)
            raise InputError(
                f"the VAE takes 1 + 4k frames: the stream ended {short} frames short of a group"
            )

    def decode_stream(self, latents: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decodes latents (B, channels, 1, h, w) as they come; yields (B, 3, 1, H, W), then (B, 3,
        4, H, W) each.

        The decoder sees `depth` groups back, so no more than these are kept.
        """
        past: list[Tensor] = []
        for number, latent in enumerate(latents):
            past = [*past[-self.depth :], latent]
            frames = self._decode_groups(torch.cat(past, dim=2))[:, :, -GROUP:]
            yield frames if number else frames[:, :, GROUP - 1 :]

    @torch.no_grad()
    def start_from_pca(self, video: Tensor) -> None:
        """Sets the linear path to the PCA of the video's patches, the best linear code of this
        size.

        Latents keep 30% of the principal components' spread (in logarithm) and have mean square 1:
        noise then drowns fine detail first and the layout of the picture last.
        """
        patches = rearrange(self.fold(grouped(video)), "b n t h w -> (b t h w) n").double()
        mean = patches.mean(0)
        variances, directions = torch.linalg.eigh(
            (patches - mean).T @ (patches - mean) / len(patches)
        )
        top = directions[:, -self.channels :].flip(1)  # (numbers, channels)
        deviation = variances[-self.channels :].flip(0).clamp(min=1e-8).sqrt()
        gain = deviation**-0.7 / (deviation**0.6).mean().sqrt()
        for layer, weight, bias in (
            (self.encode_linear, (top * gain).T, -(top * gain).T @ mean),
            (self.decode_linear, top / gain, mean),
        ):
            layer.load_state_dict({"weight": weight[..., None, None, None], "bias": bias})


def vae_loss(
    vae: VAE, video: Tensor, generator: torch.Generator, kl_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error of the reconstruction from a drawn latent, plus the weighted KL divergence
    from N(0, 1), both as means per element. Returns loss, reconstruction error, KL."""
    mean, log_variance = vae.posterior(video)
    eps = torch.randn(mean.shape, generator=generator).to(mean)
    error = F.mse_loss(vae.decode(mean + (0.5 * log_variance).exp() * eps).float(), video)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return error + kl_weight * kl, error, kl
