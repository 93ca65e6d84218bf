"""The jobs of a block beside its products: what each is told before a token is given."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass

from bitplan.kernels.decoder import attend, attend_packed, gate, norm, rotate
from bitplan.kernels.decoder.roles import (
    AFTER_ATTENTION,
    AFTER_FEED_FORWARD,
    BEFORE_ATTENTION,
    BEFORE_FEED_FORWARD,
    DOWN,
    GATE,
    KEY,
    OF_QUERIES,
    OUTPUT,
    QUERY,
    SILU,
    UP,
    VALUE,
)
from bitplan.kernels.native.floats import bits_of, fields_of

NORMED, STREAM, MIXED, GATED = "normed", "stream", "mixed", "gated"
"""What the jobs leave for each other: the normed stream, the stream, of attention, of the gate."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the products do not say of a block.

    Args:
        heads: of queries.
        key_heads: of keys and values.
        width: of a head.
        scale: of the scores of attention.
        eps: of the norms, by their roles, in pairs.
        cap: that scores do not exceed; 0: there is none.
        is_rotated: whether positions rotate queries and keys.
        norm_is_whole: whether queries' heads are normalised together, and keys', not each.
        adds_one: whether norms multiply by 1 + weight.
        factor: what attention and the feed-forward layer add is multiplied by it.
        gate: SILU or GELU_TANH.
    """

    heads: int
    key_heads: int
    width: int
    scale: float
    eps: tuple[tuple[str, float], ...]
    cap: float = 0.0
    is_rotated: bool = True
    norm_is_whole: bool = False
    adds_one: bool = False
    factor: float = 1.0
    gate: int = SILU

    def eps_of(self, role: str) -> int:
        """The bits of a norm's, 0 where there is no such norm."""
        return bits_of(dict(self.eps).get(role, 0.0))


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where float32 numbers between the jobs are, by name: roles, and what jobs leave.

    Args:
        sizes: numbers of each vector.
        starts: address of the first vector's.
        steps: numbers from one vector's to the next one's.
    """

    sizes: Mapping[str, int]
    starts: dict[str, int]
    steps: dict[str, int]


def first_norm(shape: Shape, places: Places, count: int, half: bool) -> array:
    """Before attention."""
    more = {norm.NORMED: places.starts[NORMED], norm.EPS: shape.eps_of(BEFORE_ATTENTION)}
    return _norm(shape, places, count, half, {norm.BASE_IS_HALF: half, **more})


def second_norm(shape: Shape, places: Places, count: int, half: bool) -> array:
    """What attention gives is added, and what that makes is normalised."""
    more = {
        norm.BASE_IS_HALF: half,
        norm.ADDED: places.starts[OUTPUT],
        norm.ADDED_EPS: shape.eps_of(AFTER_ATTENTION),
        norm.SUM: places.starts[STREAM],
        norm.NORMED: places.starts[NORMED],
        norm.EPS: shape.eps_of(BEFORE_FEED_FORWARD),
    }
    return _norm(shape, places, count, half, more)


def last_norm(shape: Shape, places: Places, count: int, half: bool) -> array:
    """What the feed-forward layer gives is added."""
    more = {
        norm.BASE: places.starts[STREAM],
        norm.ADDED: places.starts[DOWN],
        norm.ADDED_EPS: shape.eps_of(AFTER_FEED_FORWARD),
        norm.SUM_IS_HALF: half,
    }
    return _norm(shape, places, count, half, more)


def _norm(shape: Shape, places: Places, count: int, half: bool, more: Mapping[int, int]) -> array:
    every = {norm.VECTORS: count, norm.COLUMNS: places.sizes[STREAM], norm.IS_HALF: half}
    every |= {norm.ONE: bits_of(shape.adds_one), norm.FACTOR: bits_of(shape.factor)}
    return fields_of(norm.FIELDS, {**every, **more})


def rotation(shape: Shape, places: Places, count: int, half: bool) -> array:
    """Queries, keys and values are made of products."""
    return fields_of(
        rotate.FIELDS,
        {
            rotate.VECTORS: count,
            rotate.HEADS: shape.heads,
            rotate.KEY_HEADS: shape.key_heads,
            rotate.WIDTH: shape.width,
            rotate.IS_HALF: half,
            rotate.QUERY: places.starts[QUERY],
            rotate.KEY: places.starts[KEY],
            rotate.VALUE: places.starts[VALUE],
            rotate.QUERY_STEP: places.steps[QUERY],
            rotate.KEY_STEP: places.steps[KEY],
            rotate.NORM_IS_WHOLE: shape.norm_is_whole,
            rotate.ONE: bits_of(shape.adds_one),
            rotate.EPS: shape.eps_of(OF_QUERIES),
        },
    )


def attention(shape: Shape, places: Places, count: int, half: bool) -> array:
    """Queries attend to what the cache has, as it is or packed."""
    return fields_of(
        max(attend.FIELDS, attend_packed.FIELDS),
        {
            attend.VECTORS: count,
            attend.HEADS: shape.heads,
            attend.GROUP: shape.heads // shape.key_heads,
            attend.WIDTH: shape.width,
            attend.IS_HALF: half,
            attend.QUERY: places.starts[QUERY],
            attend.QUERY_STEP: places.steps[QUERY],
            attend.SCALE: bits_of(shape.scale),
            attend.CAP: bits_of(shape.cap),
            attend.OUTPUT: places.starts[MIXED],
        },
    )


def gating(shape: Shape, places: Places, count: int, half: bool) -> array:
    """One product opens the gate for the other."""
    return fields_of(
        gate.FIELDS,
        {
            gate.VECTORS: count,
            gate.COLUMNS: places.sizes[GATED],
            gate.IS_HALF: half,
            gate.KIND: shape.gate,
            gate.GATE: places.starts[GATE],
            gate.UP: places.starts[UP],
            gate.STEP: places.steps[GATE],
            gate.OUTPUT: places.starts[GATED],
        },
    )
