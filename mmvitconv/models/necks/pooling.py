"""Pooling of classifiers that drop out features."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmvitconv.models.base import check_rate
from mmvitconv.registry import MODELS

__all__ = ["GlobalPooling"]


@MODELS.register_module()
class GlobalPooling(BaseModule):
    """Mean of each map over height and width, then dropout: what stands before a linear head.

    Args:
        dropout_rate: Share of the channels that training sets to 0, in [0, 1).
        init_cfg: Not used; there are no parameters.

    Raises:
        ValueError: An argument is outside its legal range.

    Examples:
        >>> GlobalPooling()((torch.ones(2, 3, 4, 5),))[0].shape
        torch.Size([2, 3])
    """

    def __init__(
        self, dropout_rate: float = 0.0, init_cfg: dict | list[dict] | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        check_rate("dropout_rate", dropout_rate)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Pool each of the backbone's maps.

        Args:
            inputs: Maps of shape (B, C, H, W).

        Returns:
            Vectors of shape (B, C).

        Raises:
            ValueError: An input has another shape, such as a vector.
        """
        for x in inputs:
            if x.dim() != 4:
                raise ValueError(
                    f"GlobalPooling takes maps of shape (B, C, H, W), but got {tuple(x.shape)}; "
                    "build the backbone so that it gives maps, or leave the neck out"
                )
        return tuple(self.dropout(x.mean(dim=(2, 3))) for x in inputs)
