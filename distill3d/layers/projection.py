"""A projection between feature maps of different width, whose sizes are known late.

The channels of student and teacher are known once both are built, or from a checkpoint. So a projection is empty until
`build`, or until weights are loaded into it.
"""

from __future__ import annotations

from typing import Any, Literal, final

from torch import Tensor, nn

ProjectionKind = Literal["linear", "mlp"]


@final
class Projection(nn.Module):
    """1x1x1 convolutions, trained with the student.

    Args:
        kind: "linear", or "mlp": two with a GELU between them and as many hidden channels as outputs.
    """

    def __init__(self, kind: ProjectionKind) -> None:
        super().__init__()
        self.kind = kind
        self.net = nn.Sequential()
        self.register_load_state_dict_pre_hook(_take_sizes)

    @property
    def is_built(self) -> bool:
        """Whether it has weights."""
        return any(True for _ in self.net.parameters())

    def build(self, in_channels: int, out_channels: int) -> None:
        """Draw weights for these widths; earlier ones are dropped."""
        if self.kind == "linear":
            self.net = nn.Sequential(nn.Conv3d(in_channels, out_channels, 1))
        else:
            self.net = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1), nn.GELU(), nn.Conv3d(out_channels, out_channels, 1)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """Turn [B, in_channels, Z, Y, X] into [B, out_channels, Z, Y, X]."""
        return self.net(maps)


def _take_sizes(projection: nn.Module, state: dict[str, Any], prefix: str, *_rest: object) -> None:
    """Build an empty projection for the weights that are about to be loaded."""
    first = state.get(f"{prefix}net.0.weight")
    if isinstance(projection, Projection) and first is not None and not projection.is_built:
        projection.build(first.shape[1], first.shape[0])
