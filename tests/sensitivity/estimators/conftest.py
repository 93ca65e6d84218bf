"""Statistics from inputs and gradients that are given, and a layer's part to judge."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from bitplan.schema import Kind, Layer
from bitplan.sensitivity.estimators import Part
from bitplan.sensitivity.moments import MOMENTS
from bitplan.sensitivity.statistics import LayerStatistics
from bitplan.sensitivity.sums import Sums
from bitplan.sensitivity.watch import Seen


@pytest.fixture
def statistics_of() -> Callable[..., LayerStatistics]:
    """Statistics of a layer from (inputs, gradients) of each sequence, shared out to experts."""

    def make(
        shape: tuple[int, ...],
        sequences: Sequence[tuple[Tensor, Tensor]],
        reached: Sequence[int] = (),
    ) -> LayerStatistics:
        kind = Kind.EXPERTS if len(shape) == 3 else Kind.LINEAR
        layer = Layer(name="layer", kind=kind, shape=shape)
        found = {}
        for moment in MOMENTS:
            sums = Sums.zeros(moment, layer, sequences=len(sequences))
            for index, (inputs, slopes) in enumerate(sequences):
                parts = [(None, inputs, slopes)]
                if kind is Kind.EXPERTS:
                    shares = [x.chunk(max(1, len(reached))) for x in (inputs, slopes)]
                    parts = list(zip(reached, *shares, strict=False))
                seen = [Seen(layer=layer, inputs=x, gradients=g, expert=e) for e, x, g in parts]
                sums.add(seen, sequence=index, tokens=len(inputs))
            found[moment] = sums
        return LayerStatistics(moments=found)

    return make


@pytest.fixture
def part_of() -> Callable[..., Part]:
    """A whole weight and its error, as one part."""

    def make(error: Tensor, weight: Tensor, statistics: LayerStatistics) -> Part:
        rows, norm = slice(0, error.shape[-2]), weight.square().sum().item()
        return Part(error=error, weight=weight, rows=rows, norm=norm, statistics=statistics)

    return make


@pytest.fixture
def some_sequences() -> list[tuple[Tensor, Tensor]]:
    """(x [tokens, 6], g [tokens, 5]) of three sequences, some with more gradient than others."""
    generator = torch.Generator().manual_seed(8)
    return [
        (
            torch.randn(24, 6, generator=generator) @ torch.randn(6, 6, generator=generator),
            (1 + index) * torch.randn(24, 5, generator=generator),
        )
        for index in range(3)
    ]
