"""The blocks of a model: what it is a stack of, and how to leave some out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from bitplan.models.layers import module_of
from bitplan.schema import Layer


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The modules of the ModuleList with the most parameters, in order; none: an empty list."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        return []
    return list(max(lists, key=lambda one: sum(p.numel() for p in one.parameters())))


def block_of(model: nn.Module, layer: Layer) -> int | None:
    """The index of the block that holds a layer; None for a layer outside of them."""
    module = module_of(model, layer)
    for index, block in enumerate(blocks_of(model)):
        if any(one is module for one in block.modules()):
            return index
    return None


@contextmanager
def recorded(blocks: Sequence[nn.Module]) -> Iterator[dict[int, Any]]:
    """What each block returns within the block, by index; of a block called twice, nothing."""
    outputs: dict[int, Any] = {}
    called: set[int] = set()

    def keep(index: int, output: Any) -> None:
        if index in called:
            outputs.pop(index, None)
        else:
            outputs[index] = output
        called.add(index)

    with ExitStack() as stack:
        for index, block in enumerate(blocks):
            hook = block.register_forward_hook(lambda _, __, output, i=index: keep(i, output))
            stack.callback(hook.remove)
        yield outputs


@contextmanager
def replaced(
    blocks: Sequence[nn.Module], forward: Callable[[int, Callable, Any, Any], Any]
) -> Iterator[None]:
    """Call `forward(index, original, args, kwargs)` in place of each block, within the block."""
    with ExitStack() as stack:
        for index, block in enumerate(blocks):
            own: dict[str, Any] = vars(block)
            before, original = own.get("forward"), block.forward
            if before is None:
                stack.callback(own.pop, "forward", None)
            else:
                stack.callback(own.__setitem__, "forward", before)
            own["forward"] = _Replacement(index, original, forward)
        yield


@contextmanager
def replayed(blocks: Sequence[nn.Module], outputs: Mapping[int, Any]) -> Iterator[None]:
    """Within the block, blocks return what is given for them, and compute nothing."""
    some = list(outputs)
    with replaced([blocks[i] for i in some], lambda index, *_: outputs[some[index]]):
        yield


@dataclass(frozen=True)
class _Replacement:
    index: int
    original: Callable
    forward: Callable

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(self.index, self.original, args, kwargs)
