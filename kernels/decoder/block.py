"""Two programs that take one token of each sequence through a block of a decoder.

`Before` ends with the keys and values that go to the cache, `After` begins with all that it then
has. Blocks are those of Llama and of what followed it: RMS norms before attention and feed-forward
layer, after them, or both, rotated queries and keys, attention, SwiGLU or GeGLU.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.errors import InputError
from bitplan.kernels.cached import Stored, tell
from bitplan.kernels.decoder import attend, attend_packed, gate, norm, rotate
from bitplan.kernels.decoder.jobs import (
    GATED,
    MIXED,
    NORMED,
    STREAM,
    Places,
    Shape,
    attention,
    first_norm,
    gating,
    last_norm,
    rotation,
    second_norm,
)
from bitplan.kernels.decoder.roles import (
    AFTER_ATTENTION,
    AFTER_FEED_FORWARD,
    BEFORE_ATTENTION,
    BEFORE_FEED_FORWARD,
    DOWN,
    GATE,
    GATE_UP,
    KEY,
    OF_KEYS,
    OF_QUERIES,
    OUTPUT,
    QUERY,
    QUERY_KEY_VALUE,
    SIDE_BY_SIDE,
    UP,
    VALUE,
)
from bitplan.kernels.decoder.terms import Phase, beside, phases_of, rows_of
from bitplan.kernels.native.expand import instructions
from bitplan.kernels.native.floats import COUNTER
from bitplan.kernels.native.job import Job, Terms
from bitplan.kernels.native.program import Program

READS = {OUTPUT: MIXED, DOWN: GATED}
"""What is read by products that do not read the normed stream: what attention and gate give."""

Memory = dict[tuple[str, int], Tensor]
"""Numbers between the jobs of a block, by name and count; a model's blocks use them in turn."""


@dataclass(frozen=True)
class Given:
    """Addresses of what a model holds in its dtype, by roles, 0 where there is none.

    Args:
        norms: weights.
        biases: of products.
    """

    norms: Mapping[str, int]
    biases: Mapping[str, int]


class Block:
    """The programs of a block for so many sequences.

    Args:
        shape: what the products do not say.
        products: of its linears, by role.
        count: vectors of each product.
        dtype: of the model: float32 or bfloat16.
        memory: the model's, added to.
        given: what the model holds beside.
    """

    def __init__(
        self,
        shape: Shape,
        products: Mapping[str, Terms],
        count: int,
        dtype: torch.dtype,
        memory: Memory,
        given: Given,
    ) -> None:
        self.shape, self._count, self._dtype = shape, count, dtype
        self._products, self._memory = products, memory
        places = self._places()
        half = dtype == torch.bfloat16
        self._first = first_norm(shape, places, count, half)
        self._second = second_norm(shape, places, count, half)
        self._last = last_norm(shape, places, count, half)
        self._rotate = rotation(shape, places, count, half)
        self._attend = attention(shape, places, count, half)
        self._gate = gating(shape, places, count, half)
        self._tell(given)
        self._before = Program(
            [
                _alone(norm, self._first),
                *self._together([QUERY, KEY, VALUE, QUERY_KEY_VALUE], places),
                _alone(rotate, self._rotate),
            ]
        )
        self._rest = [
            *self._together([OUTPUT], places),
            _alone(norm, self._second),
            *self._together([GATE, UP, GATE_UP], places),
            _alone(gate, self._gate),
            *self._together([DOWN], places),
            _alone(norm, self._last),
        ]
        self._after = Program([_alone(attend, self._attend), *self._rest])
        self._after_packed: Program | None = None

    def _tell(self, given: Given) -> None:
        """Write down where what is given lies."""
        norms, biases, turn = given.norms, given.biases, self._rotate
        self._first[norm.WEIGHT] = norms[BEFORE_ATTENTION]
        turn[rotate.QUERY_NORM], turn[rotate.KEY_NORM] = norms[OF_QUERIES], norms[OF_KEYS]
        turn[rotate.QUERY_BIAS], turn[rotate.KEY_BIAS] = biases[QUERY], biases[KEY]
        turn[rotate.VALUE_BIAS] = biases[VALUE]
        self._second[norm.BIAS] = biases[OUTPUT]
        self._second[norm.ADDED_WEIGHT] = norms[AFTER_ATTENTION]
        self._second[norm.WEIGHT] = norms[BEFORE_FEED_FORWARD]
        self._gate[gate.GATE_BIAS], self._gate[gate.UP_BIAS] = biases[GATE], biases[UP]
        self._last[norm.BIAS] = biases[DOWN]
        self._last[norm.ADDED_WEIGHT] = norms[AFTER_FEED_FORWARD]

    def _places(self) -> Places:
        """Where all that is between the jobs lies, and how much of it there is for each vector."""
        shape, rows = self.shape, {role: rows_of(terms) for role, terms in self._products.items()}
        heads, key_heads = shape.heads * shape.width, shape.key_heads * shape.width
        gated = rows[GATE] if GATE in rows else rows[GATE_UP] // 2
        sizes = {QUERY: heads, KEY: key_heads, VALUE: key_heads, GATE: gated, UP: gated}
        sizes |= {NORMED: rows[DOWN], STREAM: rows[DOWN], MIXED: heads, GATED: gated}
        found = Places(sizes={**rows, **sizes}, starts={}, steps={})
        for name in (*rows, NORMED, STREAM, MIXED, GATED):
            step = found.sizes[name]
            start = found.starts[name] = self._place(name, self._count * step)
            for role in SIDE_BY_SIDE.get(name, (name,)):
                found.starts[role], found.steps[role] = start, step
                start += 4 * found.sizes[role]
        return found

    def _together(self, roles: Sequence[str], places: Places) -> list[Phase]:
        """The phases of products that are beside each other, of those that there are."""
        found = []
        for role in roles:
            if role in self._products:
                reads = READS.get(role, NORMED)
                inputs, width, output = (
                    places.starts[reads],
                    places.sizes[reads],
                    places.starts[role],
                )
                within = partial(self._part, role)
                found.append(phases_of(self._products[role], inputs, width, output, within))
        return beside(found)

    def _part(self, role: str, name: str, count: int) -> int:
        """Where so many float32 numbers within a product are."""
        return self._place(f"{role}, {name}", count)

    def _place(self, name: str, count: int) -> int:
        """Where so many float32 numbers of a name are."""
        if (name, count) not in self._memory:
            self._memory[name, count] = torch.empty(count)
        return self._memory[name, count].data_ptr()

    def before(
        self,
        hidden: Float[Tensor, "batch 1 hidden"],
        cos: Float[Tensor, "#batch 1 rotated"],
        sin: Float[Tensor, "#batch 1 rotated"],
    ) -> tuple[Float[Tensor, "batch heads 1 width"], Float[Tensor, "batch heads 1 width"]]:
        """The token's keys and values; its queries stay here for `after`."""
        shape = (self._count, self.shape.key_heads, 1, self.shape.width)
        keys, values = (torch.empty(shape, dtype=self._dtype) for _ in range(2))
        turn = self._rotate
        self._first[norm.BASE] = hidden.data_ptr()
        turn[rotate.COS], turn[rotate.SIN] = cos.data_ptr(), sin.data_ptr()
        turn[rotate.COS_IS_HALF] = cos.dtype == torch.bfloat16
        turn[rotate.ROTATED] = cos.shape[-1] if self.shape.is_rotated else 0
        turn[rotate.STEP] = cos.shape[-1] if len(cos) > 1 else 0
        turn[rotate.KEY_OUT], turn[rotate.VALUE_OUT] = keys.data_ptr(), values.data_ptr()
        self._before.run()
        return keys, values

    def after(
        self,
        hidden: Float[Tensor, "batch 1 hidden"],
        keys: Float[Tensor, "batch heads length width"],
        values: Float[Tensor, "batch heads length width"],
        mask: Tensor | None,  # bool, or numbers that are added, [#batch, 1, 1, length]
    ) -> Float[Tensor, "batch 1 hidden"]:
        """The block's output, of the last `before`."""
        look = self._attend
        look[attend.LENGTH] = keys.shape[2]
        for tensor, at in ((keys, attend.KEYS), (values, attend.VALUES)):
            look[at] = tensor.data_ptr()
            look[at + 1], look[at + 2], look[at + 3], _ = tensor.stride()
        return self._end(self._after, hidden, mask)

    def after_packed(
        self,
        hidden: Float[Tensor, "batch 1 hidden"],
        keys: Stored,
        values: Stored,
        mask: Tensor | None,
    ) -> Float[Tensor, "batch 1 hidden"]:
        """The same where a cache has keys and values packed."""
        look = self._attend
        if self._after_packed is None:
            job = Job(attend_packed.function(instructions()), look, 0, None)
            self._after_packed = Program([[(job, COUNTER)], *self._rest])
        look[attend.LENGTH] = keys.length
        tell(look, attend_packed.KEYS, keys)
        tell(look, attend_packed.VALUES, values)
        return self._end(self._after_packed, hidden, mask)

    def _end(
        self, program: Program, hidden: Tensor, mask: Tensor | None
    ) -> Float[Tensor, "batch 1 hidden"]:
        """Run what comes after the cache."""
        output, look = torch.empty_like(hidden), self._attend
        if mask is not None and mask.shape[-1] != look[attend.LENGTH]:
            raise InputError(
                f"The attention mask is of {mask.shape[-1]} tokens, but {look[attend.LENGTH]} are "
                "attended to. Give one that has a column for each token in the cache."
            )
        look[attend.MASK] = 0 if mask is None else mask.data_ptr()
        look[attend.MASK_IS_ADDED] = mask is not None and mask.dtype != torch.bool
        look[attend.MASK_OF_VECTOR] = 0 if mask is None or len(mask) == 1 else mask.stride(0)
        self._second[norm.BASE], self._last[norm.SUM] = hidden.data_ptr(), output.data_ptr()
        program.run()
        return output


def _alone(kind: Any, numbers: array) -> Phase:
    """A phase of one job, of a module's kind."""
    return [(Job(kind.function(), numbers, 0, None), COUNTER)]
