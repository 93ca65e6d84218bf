"""Cost tables made up from a few numbers: as large as is asked for, and the same each time."""

import random

from bitplan.footprint import scheme_bytes
from bitplan.schema import Cost, CostTable, Kind, Layer, Row, Scheme
from plans import PROVENANCE

MENU = ("int2g32", "int3g32", "int4g64", "int4g32", "int5g32", "int6g32", "int8g32", "bf16")
SHAPES = {
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (32, 64),
    "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64),
    "mlp.gate_proj": (192, 64),
    "mlp.up_proj": (192, 64),
    "mlp.down_proj": (64, 192),
}


def table_of(*, blocks: int = 4, menu: tuple[str, ...] = MENU, seed: int = 0) -> CostTable:
    """The table of a small language model with a tied embedding; each bit less costs fourfold."""
    draw = random.Random(seed)
    layers = [Layer(name="model.embed_tokens", kind=Kind.EMBEDDING, shape=(512, 64))]
    layers += [
        Layer(name=f"model.layers.{block}.{name}", kind=Kind.LINEAR, shape=shape, block=block)
        for block in range(blocks)
        for name, shape in SHAPES.items()
    ]
    return CostTable(
        provenance=PROVENANCE,
        rest_bytes=2 * 64 * (2 * blocks + 1),
        rows=tuple(_row(layer, menu, draw.uniform(0.2, 5.0)) for layer in layers),
    )


def _row(layer: Layer, menu: tuple[str, ...], weight: float) -> Row:
    schemes = [Scheme.parse(name) for name in menu]
    return Row(layer=layer, costs=tuple(_cost(layer, scheme, weight) for scheme in schemes))


def _cost(layer: Layer, scheme: Scheme, weight: float) -> Cost:
    size = scheme_bytes(layer.shape, scheme)
    bits = 8 * size / layer.parameters
    loss = 0.0 if scheme.is_float else weight * layer.parameters * 1e-5 * 4.0**-bits
    return Cost(scheme=scheme, bytes=size, loss=loss, standard_error=loss / 10)
