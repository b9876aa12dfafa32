"""Transformers that lack one of the two ways in which a DiT knows where a token stands. For
`--model.dit minisora.variants.positions.NoRotations`; see the experiment `recipe`."""

from torch import nn

from minisora.dit import DiT


class NoRotations(DiT):
    """A DiT without rotary position embedding: attention does not see how far tokens are apart."""

    def initialize_weights(self) -> None:
        super().initialize_weights()
        self.frequencies.zero_()  # rotations by 0 change nothing


class NoPositionEmbedding(DiT):
    """A DiT without absolute position embedding: nothing is added to the tokens."""

    def initialize_weights(self) -> None:
        super().initialize_weights()
        for layer in (self.position_embed, self.scale_embed):
            nn.init.zeros_(layer.weight)
            layer.requires_grad_(False)  # stays zero
