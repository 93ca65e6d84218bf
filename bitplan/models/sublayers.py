"""Attention and feed-forward sublayers: what can be left out of a model whole.

Each reads a norm of the residual stream and adds to the stream what its last linear gives. With all
of its weights zero it adds nothing, but for that linear's bias, and the stream passes by.
"""

from collections.abc import Iterable

from torch import nn

from bitplan.errors import ModelError, SchemeError
from bitplan.models.neighbours import FINDERS, find_neighbours
from bitplan.schema import LEFT_OUT, Layer, Sublayer


def find_sublayers(model: nn.Module, layers: Iterable[Layer]) -> tuple[Sublayer, ...]:
    """The sublayers of a model, each ending on what adds to the stream, in the order of its blocks.

    Raises `SchemeError` where they are not known, or are not made of `layers`.
    """
    advice = f"Leave {LEFT_OUT} out of the schemes."
    try:
        found = find_neighbours(model).sublayers
    except ModelError:
        raise SchemeError(
            f"The scheme {LEFT_OUT} leaves out whole sublayers of attention or feed-forward, and "
            f"which those of {type(model).__name__} are is not known: they are of models of the "
            f"types {', '.join(FINDERS)}. {advice}"
        ) from None
    known = {layer.name for layer in layers}
    for sublayer in found:
        if missing := [name for name in sublayer.layers if name not in known]:
            raise SchemeError(
                f"The scheme {LEFT_OUT} leaves out whole sublayers, but {missing[0]} of "
                f"{sublayer.name} is not a layer of its own. {advice}"
            )
    return found
