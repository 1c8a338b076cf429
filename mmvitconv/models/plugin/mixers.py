"""What takes the place of attention: circular convolutions of the map that tokens stand for."""

from typing import Any

import torch
from torch import Tensor, nn

from mmvitconv.models.layers.parc import ParCPair

__all__ = ["KEPT_LAYERS", "Grid", "SwinParCBlock", "TokenParC"]

# What an attention module does after its projection, under the names that the libraries use.
KEPT_LAYERS = ("proj_drop", "gamma1", "out_drop", "dropout_layer", "drop")


class Grid:
    """Height and width of the map of patch tokens, as the patch embedding last made it.

    A forward hook of the patch embedding's convolution, shared with the mixers; copies and pickles
    of a model share their own.
    """

    def __init__(self) -> None:
        self.size: tuple[int, int] | None = None

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Remember the size of the output, shape (B, C, H, W)."""
        self.size = (output.shape[2], output.shape[3])


class TokenParC(nn.Module):
    """ParC in the place of attention: patch tokens are mixed as a map.

    Args:
        mixer: Mixes maps of shape (B, C, H, W).
        attention: What it stands for; its dropout and layer scale stay, under their names.
        prefix: Number of tokens before the patches' (class, distillation). They get the mean of
            the mixed patch tokens.
        grid: Where the map's size is found, None when it comes with each call.
        add_identity: Whether the attention adds its input itself.
    """

    def __init__(
        self,
        mixer: ParCPair,
        attention: nn.Module,
        prefix: int = 0,
        grid: Grid | None = None,
        add_identity: bool = False,
    ) -> None:
        super().__init__()
        self.mixer = mixer
        self.kept = tuple(name for name, _ in attention.named_children() if name in KEPT_LAYERS)
        for name in self.kept:
            self.add_module(name, getattr(attention, name))
        self.prefix = prefix
        self.grid = grid
        self.add_identity = add_identity

    def forward(
        self,
        query: Tensor,
        hw_shape: tuple[int, int] | None = None,
        identity: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Mix tokens.

        Args:
            query: Shape (B, prefix + H * W, C).
            hw_shape: H and W, where the model passes them.
            identity: What is added to the result if the original adds it; None for ``query``.
            options: Those of the original that are off, such as ``attn_mask=None``.

        Returns:
            Shape of ``query``.

        Raises:
            ValueError: An option is on, or the tokens are not those of the image's patches.
        """
        used = [name for name, value in options.items() if value is not None and value is not False]
        if used:
            raise ValueError(
                f"a circular convolution does not take {', '.join(used)}, which the attention "
                "took; leave this module out of the replacement's rule"
            )
        size = self.grid.size if hw_shape is None else hw_shape
        if size is None or query.shape[1] != self.prefix + size[0] * size[1]:
            raise ValueError(
                f"{query.shape[1]} tokens are not {self.prefix} and a map of {size}; a circular "
                "convolution needs all patches of an image, so switch patch dropout off"
            )
        prefix, patches = query[:, : self.prefix], query[:, self.prefix :]
        patches = patches.transpose(1, 2).unflatten(2, tuple(size))
        mixed = self.mixer(patches).flatten(2).transpose(1, 2)
        if self.prefix:
            mean = mixed.mean(dim=1, keepdim=True).expand_as(prefix)
            mixed = torch.cat([mean, mixed], dim=1)
        for name in self.kept:
            mixed = getattr(self, name)(mixed)
        if self.add_identity:
            mixed = (query if identity is None else identity) + mixed
        return mixed


class SwinParCBlock(nn.Module):
    """timm's Swin block with a circular convolution of the whole map for attention in windows.

    Args:
        mixer: Mixes maps of shape (B, C, H, W).
        block: What it stands for; norms, MLP and stochastic depth are taken over.
    """

    def __init__(self, mixer: ParCPair, block: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.mixer = mixer
        self.mlp = block.mlp
        self.drop_path1, self.drop_path2 = block.drop_path1, block.drop_path2

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map of shape (B, H, W, C)."""
        mixed = self.mixer(self.norm1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.drop_path1(mixed)
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing, as there are no windows; timm's Swin calls this for another image size."""
