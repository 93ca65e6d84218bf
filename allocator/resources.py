"""Limits on what a plan stores and holds; all limits by their names.

Amounts are whole steps, rounded up, so that a limit that holds in steps holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from bitplan.allocator.limit import Unit
from bitplan.allocator.resource import AbstractResource, for_each
from bitplan.allocator.rules import Amounts
from bitplan.allocator.time_limits import BitOps, ReadBytes
from bitplan.errors import InputError
from bitplan.footprint import dense_bytes
from bitplan.runtimes import ROWS_AT_ONCE, torch_cpu
from bitplan.schema import Cost, CostTable, Kind, Layer


@dataclass(frozen=True, kw_only=True)
class AverageBits(AbstractResource):
    """Bits per weight: 8 x bytes / weights, over all weights of the table.

    The bytes are those of codes, scales, offsets and padding; the weights are those of the table's
    layers, so what is not compressed counts in neither, nor do cached keys and values.
    """

    def unit(self, table: CostTable) -> Unit:
        """Bytes, told as bits per weight."""
        weights = sum(row.layer.parameters for row in table.rows if not row.layer.is_cache)
        noun = "bits per weight on average"
        return Unit(noun=noun, scale=Fraction(8, max(weights, 1)), decimals=4)

    def amounts(self, table: CostTable) -> Amounts:
        """Bytes of weights."""
        return for_each(table, lambda layer, cost: 0 if layer.is_cache else cost.bytes)


@dataclass(frozen=True, kw_only=True)
class WeightBytes(AbstractResource):
    """Bytes of the applied model's parameters and buffers: all but the cache."""

    def unit(self, table: CostTable) -> Unit:
        """Bytes; what no scheme touches is taken whatever is chosen."""
        return Unit(noun="bytes of weights", rest=table.rest_bytes)

    def amounts(self, table: CostTable) -> Amounts:
        """Bytes of weights."""
        return for_each(table, lambda layer, cost: 0 if layer.is_cache else cost.bytes)


@dataclass(frozen=True, kw_only=True)
class CacheBytes(AbstractResource):
    """Bytes of the KV cache after `context` tokens of each of `batch` sequences.

    None is what the table was measured for. The context may be at most that: beyond it, windows of
    attention could end the growth.
    """

    context: int | None = None
    batch: int | None = None

    def unit(self, table: CostTable) -> Unit:
        """Bytes at the context and batch."""
        context, batch = self._size(table)
        return Unit(noun=f"bytes of KV cache at {context:,} tokens x {batch}")

    def amounts(self, table: CostTable) -> Amounts:
        """Bytes of keys and values, a row of which takes the same at every length."""
        context, batch = self._size(table)

        def rows_bytes(layer: Layer, cost: Cost) -> int:
            if not layer.is_cache:
                return 0
            tokens = min(layer.shape[0] // table.provenance.batch, context)
            return -(-cost.bytes * tokens * batch // layer.shape[0])

        return for_each(table, rows_bytes)

    def _size(self, table: CostTable) -> tuple[int, int]:
        made = table.provenance
        context, batch = self.context or made.context, self.batch or made.batch
        if not 0 < context <= made.context or batch < 1:
            counted = f"counts the cache up to {made.context:,}" if made.context else "has no cache"
            raise InputError(
                f"The KV cache is limited at {context:,} tokens x {batch}, but the cost table "
                f"{counted}. Measure with a context of at least {max(context, 1):,}."
            )
        return context, batch


@dataclass(frozen=True, kw_only=True)
class Workspace(AbstractResource):
    """Bytes of the largest weight that is decoded at once to be multiplied, in the model's dtype.

    On the CPU: nothing where torch multiplies it as it is stored; at most 4,096 rows of a linear or
    of a tied embedding; one row of an embedding; one expert; a whole convolution, or one layer's
    keys or values. Compiled loops decode less: nothing for a few tokens, 2 MiB at most for many.
    """

    largest: ClassVar[bool] = True

    def unit(self, table: CostTable) -> Unit:
        """Bytes."""
        return Unit(noun="bytes of workspace")

    def amounts(self, table: CostTable) -> Amounts:
        """Bytes of what is decoded at once."""

        def decoded(layer: Layer, cost: Cost) -> int:
            if torch_cpu(layer, cost.scheme) is None and layer.kind is not Kind.EMBEDDING:
                return 0
            shape = () if cost.scheme.is_float else _decoded_shape(layer)
            return dense_bytes(shape, table.provenance.dtype) if shape else 0

        return for_each(table, decoded)


RESOURCES: Mapping[str, type[AbstractResource]] = {
    "weight_bytes": WeightBytes,
    "cache_bytes": CacheBytes,
    "workspace_bytes": Workspace,
    "read_bytes": ReadBytes,
    "bit_ops": BitOps,
}
"""Those that need nothing but a number."""


def bytes_of_all(table: CostTable) -> Amounts:
    """Bytes of every layer, weights and cache."""
    return for_each(table, lambda _, cost: cost.bytes)


def _decoded_shape(layer: Layer) -> tuple[int, ...]:
    match layer.kind:
        case Kind.EMBEDDING if not layer.tied:
            return 1, layer.shape[1]
        case Kind.LINEAR | Kind.CONV1D | Kind.EMBEDDING:
            return min(layer.shape[0], ROWS_AT_ONCE), layer.shape[1]
        case Kind.EXPERTS:
            return layer.shape[-2:]
        case _:
            return layer.shape
