"""Limits on what takes time: bytes that are read, bit operations, and seconds that were timed."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

from bitplan.allocator.latencies import Latencies
from bitplan.allocator.limit import Unit
from bitplan.allocator.resource import AbstractResource, for_each
from bitplan.allocator.rules import Amounts
from bitplan.errors import InputError, TableError
from bitplan.footprint import dense_bytes
from bitplan.schema import Cost, CostTable, Kind, Layer


@dataclass(frozen=True, kw_only=True)
class ReadBytes(AbstractResource):
    """Bytes of the table's layers that are read to decode one token of one sequence.

    A weight is read whole, times the share of tokens that reach it (experts); of an embedding one
    row, and all of it as well where a head is tied to it; keys and values of one sequence.
    """

    measured: ClassVar[bool] = True

    def unit(self, table: CostTable) -> Unit:
        """Bytes."""
        return Unit(noun="bytes read per token")

    def amounts(self, table: CostTable) -> Amounts:
        """Bytes that are read of a layer."""
        batch = table.provenance.batch

        def read(layer: Layer, cost: Cost) -> int:
            if layer.is_cache:
                return -(-cost.bytes // batch)
            if layer.kind is not Kind.EMBEDDING:
                return math.ceil(cost.bytes * layer.tokens)
            row = -(-cost.bytes // layer.shape[0])
            return row + cost.bytes if layer.tied else row

        return for_each(table, read)


@dataclass(frozen=True, kw_only=True)
class BitOps(AbstractResource):
    """Bit operations of the table's layers for one token: MACs x weight bits x activation bits.

    HAWQ-V3's G_i = b_w b_a MAC_i (Yao et al. 2021). A linear multiplies each of its weights once,
    times the share of tokens that reach it (experts); an embedding none, but where a head is tied
    to it; a convolution is counted for one position; keys and values at the whole context, of one
    sequence.

    Args:
        most: bit operations.
        activation_bits: of what the weights are multiplied with: a number, "dtype" for those of the
            table's dtype, as bitplan's kernels compute, or "weights" for as many as the weight has,
            as HAWQ-V3 quantizes.
    """

    activation_bits: int | Literal["dtype", "weights"] = "dtype"

    measured: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        bits = self.activation_bits
        if bits not in ("dtype", "weights") and not (isinstance(bits, int) and bits >= 1):
            raise InputError(
                f"The activations are said to have {bits!r} bits; give a number of 1 or more, "
                '"dtype" or "weights".'
            )

    def unit(self, table: CostTable) -> Unit:
        """Bit operations."""
        return Unit(noun="bit operations per token")

    def amounts(self, table: CostTable) -> Amounts:
        """Bit operations of a layer."""
        made = table.provenance

        def operations(layer: Layer, cost: Cost) -> int:
            bits, other = cost.scheme.bits, self.activation_bits
            if not isinstance(other, int):
                other = bits if other == "weights" else 8 * dense_bytes((1,), made.dtype)
            return math.ceil(_multiplied(layer, made.batch) * bits * other)

        return for_each(table, operations)


@dataclass(frozen=True, kw_only=True)
class Seconds(AbstractResource):
    """Seconds of all layers by a latency table, which the caller gives; whole picoseconds.

    A layer takes none but the schemes that it was timed in.
    """

    latencies: Latencies

    def unit(self, table: CostTable) -> Unit:
        """Picoseconds, told as seconds."""
        return Unit(noun="seconds", scale=Fraction(1, 10**12), decimals=12)

    def amounts(self, table: CostTable) -> Amounts:
        """Picoseconds. Raises `TableError` where a layer was not timed at all."""
        timed = self.latencies.seconds(table)
        for name, schemes in timed.items():
            if not schemes:
                raise TableError(
                    f"The latency table has no time of {name}. Is it of another model? Give a time "
                    "for its name, or for its kind and shape."
                )
        return {
            name: {scheme: math.ceil(Fraction(str(s)) * 10**12) for scheme, s in schemes.items()}
            for name, schemes in timed.items()
        }


def _multiplied(layer: Layer, batch: int) -> float:
    """Multiplications with a layer's numbers for one token of one sequence."""
    if layer.is_cache:
        return layer.parameters / batch
    if layer.kind is Kind.EMBEDDING and not layer.tied:
        return 0
    return layer.parameters * layer.tokens
