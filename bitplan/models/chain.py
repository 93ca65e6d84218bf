"""A model as a chain of blocks, each of which can be run alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.memory import release
from bitplan.models.blocks import replaced

Run = Callable[[], Tensor]
"""Runs the model forward on one sequence, and gives what is differentiated, a scalar."""


class Call(NamedTuple):
    """The arguments of one call of a block, without its hidden state."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and _equal(tuple(self), tuple(other))

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The blocks at `path`, in which each hidden state is the output of the block before.

    `in_tuples` tells for each block whether it returns its hidden state in a tuple. The model is
    as it was after each method.
    """

    model: nn.Module
    path: str
    in_tuples: tuple[bool, ...]

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks."""
        return _blocks(self.model, self.path)

    def place(self, layer_name: str) -> int | None:
        """The block that a layer is in; None for those before and after all blocks."""
        inside = layer_name.removeprefix(f"{self.path}.")
        return None if inside == layer_name else int(inside.partition(".")[0])

    def block(self, index: int, hidden: Tensor, call: Call) -> Tensor:
        """Run one block."""
        output = self.blocks[index](hidden, *call.args, **call.kwargs)
        return output[0] if self.in_tuples[index] else output

    def release(self, index: int | None = None) -> None:
        """Give back the pages of one block's weights, or of those before and after all blocks."""
        if index is not None:
            release(self.blocks[index].parameters())
            return
        inside = {id(parameter) for block in self.blocks for parameter in block.parameters()}
        release(p for p in self.model.parameters() if id(p) not in inside)

    def begin(self, run: Run) -> tuple[Tensor, list[Call]]:
        """The first block's hidden state, and the arguments of each block."""
        found: list[Tensor] = []
        calls: list[Call] = []

        def forward(index: int, hidden: Tensor, call: Call) -> Tensor:
            found.append(hidden)
            calls.append(call)
            if index == len(self.in_tuples) - 1:
                raise _Stop
            return hidden.detach()

        self._run(run, forward)
        return found[0].detach(), calls

    def prefix(self, run: Run) -> Tensor:
        """The first block's hidden state, with the graph that leads to it."""
        found: list[Tensor] = []

        def forward(index: int, hidden: Tensor, call: Call) -> Tensor:
            found.append(hidden)
            raise _Stop

        self._run(run, forward)
        return found[0]

    def end(self, run: Run, hidden: Tensor) -> Tensor:
        """What `run` gives where `hidden` is the last block's output."""

        def forward(index: int, unused: Tensor, call: Call) -> Tensor:
            return hidden if index == len(self.in_tuples) - 1 else unused.detach()

        result = self._run(run, forward)
        assert result is not None
        return result

    def _run(self, run: Run, forward: Callable[[int, Tensor, Call], Tensor]) -> Tensor | None:
        def wrapped(index: int, original: Callable, args: Any, kwargs: Any) -> Any:
            output = forward(index, *_parted(args, kwargs))
            return (output,) if self.in_tuples[index] else output

        with replaced(self.blocks, wrapped):
            try:
                return run()
            except _Stop:
                return None


class _Stop(Exception):
    """Enough was seen of a run."""


def find_chain(model: nn.Module, run: Run) -> Chain:
    """The chain of a model's blocks: the nn.ModuleList with the most parameters.

    Runs the model once, block by block, with gradients, to see whether it is one. Raises
    `ModelError` where a block reads anything but the output of the block before and what is the
    same for all inputs of that shape, or where the model's end reads anything else of the blocks.
    """
    path = _find_blocks(model)
    trial = _Trial(model, path)
    with trial.embeddings_seen(), replaced(trial.blocks, trial.forward):
        loss = run()
    if len(trial.calls) != len(trial.blocks):
        raise _no_chain(model, f"{len(trial.calls)} of the {len(trial.blocks)} blocks were run")
    # What a gradient comes to beside the last block's output, the end reads beside it.
    aside = [t for t in (*trial.embedded, *trial.hidden, *trial.outputs[:-1]) if t.requires_grad]
    if loss.requires_grad and aside:
        found = torch.autograd.grad(loss, aside, allow_unused=True, materialize_grads=False)
        if any(gradient is not None for gradient in found):
            raise _no_chain(model, "its end reads more than the last block's output")
    chain = Chain(model=model, path=path, in_tuples=tuple(trial.in_tuples))
    if chain.begin(run)[1] != trial.calls:
        raise _no_chain(model, "what its blocks are given depends on what blocks before them gave")
    return chain


class _Trial:
    """Runs each block on its own, and looks at what passes between them."""

    def __init__(self, model: nn.Module, path: str) -> None:
        self.model, self.blocks = model, _blocks(model, path)
        self.embedded: list[Tensor] = []
        self.hidden: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.calls: list[Call] = []
        self.in_tuples: list[bool] = []

    @contextmanager
    def embeddings_seen(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self.model.modules():
                if isinstance(module, nn.Embedding):
                    stack.callback(module.register_forward_hook(self._see).remove)
            yield

    def _see(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.embedded.append(output.requires_grad_() if output.is_leaf else output)

    def forward(self, index: int, original: Callable, args: Any, kwargs: Any) -> Any:
        hidden, call = _parted(args, kwargs)
        if index != len(self.calls):
            raise _no_chain(self.model, "its blocks do not run one after another, each once")
        if self.outputs and hidden is not self.outputs[-1]:
            raise _no_chain(self.model, f"block {index} does not read the output of the one before")
        for item in _leaves(tuple(call)):
            if isinstance(item, Tensor) and item.requires_grad:
                raise _no_chain(self.model, f"block {index} reads more than one hidden state")
            if not isinstance(item, Tensor | str | int | float | None):
                kind = type(item).__name__
                raise _no_chain(
                    self.model, f"block {index} is given something that may change, of type {kind}"
                )
        output = original(hidden.detach().requires_grad_(), *call.args, **call.kwargs)
        release(self.blocks[index].parameters())
        first, *others = output if isinstance(output, tuple) else (output,)
        if any(isinstance(item, Tensor) for item in _leaves(tuple(others))):
            raise _no_chain(self.model, f"block {index} returns more than its hidden state")
        self.hidden.append(hidden)
        self.calls.append(call)
        self.in_tuples.append(isinstance(output, tuple))
        self.outputs.append(first.detach().requires_grad_())
        return (self.outputs[-1], *others) if isinstance(output, tuple) else self.outputs[-1]


def _no_chain(model: nn.Module, why: str) -> ModelError:
    return ModelError(
        f"{type(model).__name__} cannot be run block by block: {why}. Run the whole model at once."
    )


def _find_blocks(model: nn.Module) -> str:
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in lists.items()}
    if not any(sizes.values()):
        raise _no_chain(model, "it has no list of blocks")
    return max(sizes, key=lambda name: sizes[name])  # the outermost, where several hold the same


def _blocks(model: nn.Module, path: str) -> Sequence[nn.Module]:
    blocks: Any = model.get_submodule(path)
    return blocks


def _parted(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Call]:
    """The hidden state, which comes first or by its name, and the other arguments."""
    if args:
        return args[0], Call(args[1:], kwargs)
    return kwargs["hidden_states"], Call((), {k: v for k, v in kwargs.items() if k != _HIDDEN})


def _leaves(item: Any) -> Iterator[Any]:
    if isinstance(item, tuple | list):
        for part in item:
            yield from _leaves(part)
    elif isinstance(item, dict):
        yield from _leaves(list(item.values()))
    else:
        yield item


def _equal(one: Any, other: Any) -> bool:
    """Whether arguments are the same, tensors by value."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) is type(other) and one == other


_HIDDEN = "hidden_states"
