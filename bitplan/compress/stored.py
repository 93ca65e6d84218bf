"""What a scale or an offset becomes when it is stored: a search judges what decode will see."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.formats import double
from bitplan.formats.scales import SCALE_DTYPE, read_scale, store_scale


class AbstractStored(ABC):
    """Scales and offsets [rows] of one group."""

    @abstractmethod
    def scale(self, scale: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
        """The nearest scale; zero where nothing is stored but zeros."""

    @abstractmethod
    def positive_scale(self, scale: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
        """The nearest scale above zero.

        A group of equal weights has no range: any positive scale gives the exact offset.
        """

    @abstractmethod
    def offset(self, offset: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
        """The nearest offset."""


@dataclass(frozen=True, kw_only=True)
class AsBfloat16(AbstractStored):
    """Integer schemes' own: a bfloat16 number each."""

    def scale(self, scale: Tensor) -> Tensor:
        """Rounded to bfloat16."""
        return scale.to(SCALE_DTYPE).float()

    def positive_scale(self, scale: Tensor) -> Tensor:
        """Rounded to bfloat16, 1 where that is zero."""
        scale = self.scale(scale)
        return torch.where(scale > 0, scale, 1.0)

    def offset(self, offset: Tensor) -> Tensor:
        """Rounded to bfloat16."""
        return offset.to(SCALE_DTYPE).float()


AS_BFLOAT16 = AsBfloat16()


@dataclass(frozen=True, kw_only=True)
class AsKind(AbstractStored):
    """A codebook's: bfloat16, a power of two, or e4m3 times the scale of the matrix."""

    kind: str
    matrix_scale: Tensor | None = None

    def scale(self, scale: Tensor) -> Tensor:
        """Rounded to the kind."""
        stored = store_scale(self.kind, scale, self.matrix_scale)
        return read_scale(self.kind, stored, self.matrix_scale)

    def positive_scale(self, scale: Tensor) -> Tensor:
        """As `scale`: a codebook needs none above zero."""
        return self.scale(scale)

    def offset(self, offset: Tensor) -> Tensor:
        """There is none."""
        return torch.zeros_like(offset)


@dataclass(frozen=True, kw_only=True)
class AsCodes(AbstractStored):
    """Bytes times a step."""

    scale_step: Float[Tensor, "rows"]
    offset_step: Float[Tensor, "rows"] | None = None

    def scale(self, scale: Tensor) -> Tensor:
        """A multiple of the step."""
        return double.round_scale(scale, self.scale_step, least=0)

    def positive_scale(self, scale: Tensor) -> Tensor:
        """A multiple of the step, the step itself at least."""
        return double.round_scale(scale, self.scale_step, least=1)

    def offset(self, offset: Tensor) -> Tensor:
        """A multiple of the offsets' step."""
        if self.offset_step is None:
            return torch.zeros_like(offset)
        return double.round_offset(offset, self.offset_step)
