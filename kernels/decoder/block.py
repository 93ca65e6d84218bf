"""Two programs that take one token of each sequence through a block of a decoder.

`Before` ends with the keys and values that go to the cache, `After` begins with all that it then
has. Blocks are those of Llama: RMS norms, rotated queries and keys, attention, SwiGLU.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.kernels.decoder import attend, gate, norm, rotate
from bitplan.kernels.decoder.terms import Phase, beside, phases_of, rows_of
from bitplan.kernels.native.floats import COUNTER, bits_of, fields_of
from bitplan.kernels.native.job import Job, Terms
from bitplan.kernels.native.program import Program

QUERY, KEY, VALUE, OUTPUT = "query", "key", "value", "output"
GATE, UP, DOWN = "gate", "up", "down"
NORMED, STREAM, MIXED = "normed", "stream", "mixed"
READS = {OUTPUT: MIXED, DOWN: GATE}
"""What is read by products that do not read the normed stream: what attention and gate give."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the products do not say of a block.

    Args:
        heads: of queries.
        key_heads: of keys and values.
        width: of a head.
        scale: of the scores of attention.
        eps: of the norm before attention, of that after it, and of those of queries and keys.
    """

    heads: int
    key_heads: int
    width: int
    scale: float
    eps: tuple[float, float, float]


Memory = dict[tuple[str, int], Tensor]
"""Numbers between the jobs of a block, by name and count; a model's blocks use them in turn."""


@dataclass(frozen=True)
class Given:
    """Addresses of what a model holds in its dtype, 0 where there is none.

    Args:
        norms: weights of the norm before attention, of that after it, of queries and of keys.
        biases: of products, by their names.
    """

    norms: Sequence[int]
    biases: Mapping[str, int]


class Block:
    """The programs of a block for so many sequences.

    Args:
        shape: of attention.
        products: of its linears, by name.
        count: vectors of each product.
        dtype: of the model: float32 or bfloat16.
        memory: the model's, added to.
    """

    def __init__(
        self,
        shape: Shape,
        products: Mapping[str, Terms],
        count: int,
        dtype: torch.dtype,
        memory: Memory,
    ) -> None:
        self.shape, self._count, self._dtype = shape, count, dtype
        rows = {name: rows_of(terms) for name, terms in products.items()}
        hidden = rows[DOWN]
        sizes = {**rows, NORMED: hidden, STREAM: hidden, MIXED: rows[QUERY]}
        place = {name: _place(memory, name, count * size) for name, size in sizes.items()}

        def together(names: Iterable[str]) -> list[Phase]:
            """The phases of products that are beside each other."""
            found = []
            for name in names:
                reads = READS.get(name, NORMED)
                own = partial(_part, memory, name)
                found.append(
                    phases_of(products[name], place[reads], sizes[reads], place[name], own)
                )
            return beside(found)

        half = dtype == torch.bfloat16
        self._first, self._second, self._last = _norms(shape, place, count, hidden, half)
        self._rotate = _rotation(shape, place, count, half)
        self._attend = _attention(shape, place, count, half)
        self._gate = fields_of(
            gate.FIELDS,
            {
                gate.VECTORS: count,
                gate.COLUMNS: rows[GATE],
                gate.IS_HALF: half,
                gate.GATE: place[GATE],
                gate.UP: place[UP],
            },
        )
        self._before = Program(
            [
                _alone(norm.function(), self._first),
                *together([QUERY, KEY, VALUE]),
                _alone(rotate.function(), self._rotate),
            ]
        )
        self._after = Program(
            [
                _alone(attend.function(), self._attend),
                *together([OUTPUT]),
                _alone(norm.function(), self._second),
                *together([GATE, UP]),
                _alone(gate.function(), self._gate),
                *together([DOWN]),
                _alone(norm.function(), self._last),
            ]
        )

    def before(
        self,
        hidden: Float[Tensor, "batch 1 hidden"],
        cos: Float[Tensor, "#batch 1 width"],
        sin: Float[Tensor, "#batch 1 width"],
        given: Given,
    ) -> tuple[Float[Tensor, "batch heads 1 width"], Float[Tensor, "batch heads 1 width"]]:
        """The token's keys and values; its queries stay here for `after`."""
        shape = (self._count, self.shape.key_heads, 1, self.shape.width)
        keys, values = (torch.empty(shape, dtype=self._dtype) for _ in range(2))
        first, turn = self._first, self._rotate
        first[norm.BASE], first[norm.WEIGHT] = hidden.data_ptr(), given.norms[0]
        turn[rotate.COS], turn[rotate.SIN] = cos.data_ptr(), sin.data_ptr()
        turn[rotate.STEP] = self.shape.width if len(cos) > 1 else 0
        turn[rotate.QUERY_NORM], turn[rotate.KEY_NORM] = given.norms[2:]
        biases = given.biases
        turn[rotate.QUERY_BIAS], turn[rotate.KEY_BIAS] = biases[QUERY], biases[KEY]
        turn[rotate.VALUE_BIAS] = biases[VALUE]
        turn[rotate.KEY_OUT], turn[rotate.VALUE_OUT] = keys.data_ptr(), values.data_ptr()
        self._before.run()
        return keys, values

    def after(
        self,
        hidden: Float[Tensor, "batch 1 hidden"],
        keys: Float[Tensor, "batch heads length width"],
        values: Float[Tensor, "batch heads length width"],
        mask: Tensor | None,  # bool [#batch, 1, 1, length]
        given: Given,
    ) -> Float[Tensor, "batch 1 hidden"]:
        """The block's output, of the last `before`."""
        output = torch.empty_like(hidden)
        look, biases = self._attend, given.biases
        look[attend.LENGTH] = keys.shape[2]
        for tensor, at in ((keys, attend.KEYS), (values, attend.VALUES)):
            look[at] = tensor.data_ptr()
            look[at + 1], look[at + 2], look[at + 3], _ = tensor.stride()
        look[attend.MASK] = 0 if mask is None else mask.data_ptr()
        look[attend.MASK_OF_VECTOR] = 0 if mask is None or len(mask) == 1 else mask.shape[-1]
        second, last, gated = self._second, self._last, self._gate
        second[norm.BASE], second[norm.WEIGHT] = hidden.data_ptr(), given.norms[1]
        second[norm.BIAS], last[norm.BIAS] = biases[OUTPUT], biases[DOWN]
        gated[gate.GATE_BIAS], gated[gate.UP_BIAS] = biases[GATE], biases[UP]
        last[norm.SUM] = output.data_ptr()
        self._after.run()
        return output


def _place(memory: Memory, name: str, count: int) -> int:
    """Where so many float32 numbers of a name are."""
    if (name, count) not in memory:
        memory[name, count] = torch.empty(count)
    return memory[name, count].data_ptr()


def _part(memory: Memory, whole: str, name: str, count: int) -> int:
    """The same for what is within a product."""
    return _place(memory, f"{whole}, {name}", count)


def _norms(
    shape: Shape, place: Mapping[str, int], count: int, hidden: int, half: bool
) -> tuple[array, array, array]:
    """Before attention, after it, and the sum at the end."""
    every = {norm.VECTORS: count, norm.COLUMNS: hidden, norm.IS_HALF: half}
    reads_model = every | {norm.BASE_IS_HALF: half, norm.NORMED: place[NORMED]}
    first = reads_model | {norm.EPS: bits_of(shape.eps[0])}
    second = reads_model | {norm.ADDED: place[OUTPUT], norm.SUM: place[STREAM]}
    second |= {norm.EPS: bits_of(shape.eps[1])}
    last = every | {norm.BASE: place[STREAM], norm.ADDED: place[DOWN], norm.SUM_IS_HALF: half}
    found = (fields_of(norm.FIELDS, one) for one in (first, second, last))
    return next(found), next(found), next(found)


def _rotation(shape: Shape, place: Mapping[str, int], count: int, half: bool) -> array:
    return fields_of(
        rotate.FIELDS,
        {
            rotate.VECTORS: count,
            rotate.HEADS: shape.heads,
            rotate.KEY_HEADS: shape.key_heads,
            rotate.WIDTH: shape.width,
            rotate.IS_HALF: half,
            rotate.QUERY: place[QUERY],
            rotate.KEY: place[KEY],
            rotate.VALUE: place[VALUE],
            rotate.EPS: bits_of(shape.eps[2]),
        },
    )


def _attention(shape: Shape, place: Mapping[str, int], count: int, half: bool) -> array:
    return fields_of(
        attend.FIELDS,
        {
            attend.VECTORS: count,
            attend.HEADS: shape.heads,
            attend.GROUP: shape.heads // shape.key_heads,
            attend.WIDTH: shape.width,
            attend.IS_HALF: half,
            attend.QUERY: place[QUERY],
            attend.SCALE: bits_of(shape.scale),
            attend.OUTPUT: place[MIXED],
        },
    )


def _alone(function: Any, numbers: array) -> Phase:
    """A phase of one job."""
    return [(Job(function, numbers, 0, None), COUNTER)]
