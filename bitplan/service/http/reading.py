"""What the reader's process does: uploads are checked, models described. It may load torch.

It is apart from the solver's process, so that a slider moves while somebody sends a table.
"""

import json
from functools import lru_cache
from typing import Any

from bitplan.schema import Kind
from bitplan.service.http.solving import check_plan as check_plan
from bitplan.service.http.solving import check_table as check_table
from bitplan.service.http.solving import ready as ready
from bitplan.service.http.solving import summary as summary

MODELS_KEPT = 64


def describe_model(model: str, stamp: str, dtype: str, context: int, batch: int) -> str:
    """A model's size and layers as JSON; read once for each stamp, which changes with its files."""
    return _describe(model, stamp, dtype, context, batch)


@lru_cache(maxsize=MODELS_KEPT)
def _describe(model: str, stamp: str, dtype: str, context: int, batch: int) -> str:
    from bitplan.models import describe, load_outline
    from bitplan.service.work.source import source_of

    seen = describe(load_outline(source_of(model), dtype=dtype), context=context, batch=batch)
    blocks = {stored.layer.block for stored in seen.layers} - {None}
    kinds: dict[Kind, int] = {}
    for stored in seen.layers:
        kinds[stored.layer.kind] = kinds.get(stored.layer.kind, 0) + 1
    content: dict[str, Any] = {
        "model": seen.name,
        "architecture": seen.architecture,
        "dtype": seen.dtype,
        "parameters": seen.parameters,
        "bytes": seen.bytes,
        "rest_bytes": seen.rest_bytes,
        "layers": len(seen.layers),
        "blocks": len(blocks),
        "kinds": {kind.value: count for kind, count in kinds.items()},
        "smallest_bytes": seen.smallest_bytes,
        "largest_bytes": seen.largest_bytes,
    }
    return json.dumps(content)
