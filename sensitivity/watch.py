"""See the inputs of each layer and the gradients at its output, without changing the model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bitplan.models import module_of
from bitplan.schema import Kind, Layer


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one call of a layer was given, and the gradient of the loss at what it returned."""

    layer: Layer
    inputs: Float[Tensor, "tokens in"] | None  # None: a lookup in an embedding
    gradients: Float[Tensor, "tokens out"]
    expert: int | None = None


Report = Callable[[Seen], None]


@contextmanager
def watch(model: nn.Module, layers: Sequence[Layer], report: Report) -> Iterator[None]:
    """Report every call of `layers` when its gradient arrives, within the block.

    Weights need not require gradients: what the embeddings return does.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                stack.callback(module.register_forward_hook(_start_graph).remove)
        experts = {}
        for layer in layers:
            if layer.kind is Kind.EXPERTS:
                experts[layer] = module_of(model, layer).get_parameter(
                    layer.name.rpartition(".")[2]
                )
                continue
            for name in (layer.name, *layer.tied):
                module = model.get_submodule(name)
                hook = _Hook(layer, report, lookup=isinstance(module, nn.Embedding))
                stack.callback(module.register_forward_hook(hook).remove)
        if experts:
            stack.enter_context(_ExpertsMode(experts, report))
        yield


def _start_graph(module: nn.Module, args: Any, output: Tensor) -> None:
    if not output.requires_grad:
        output.requires_grad_()


@dataclass(frozen=True)
class _Hook:
    """A forward hook of a module that is called with its inputs."""

    layer: Layer
    report: Report
    lookup: bool

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs = None if self.lookup else args[0]
        _listen(output, _Call(report=self.report, layer=self.layer, inputs=inputs))


class _ExpertsMode(TorchFunctionMode):
    """Sees the matmuls with a slice of a three-dimensional parameter: one expert's weight."""

    def __init__(self, experts: dict[Layer, nn.Parameter], report: Report) -> None:
        super().__init__()
        self.report = report
        self.spans = [
            (p.data_ptr(), p.data_ptr() + p.nbytes, p[0].nbytes, layer)
            for layer, p in experts.items()
        ]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func in _MATMULS and len(args) >= 2 and args[1].dim() == 2:
            address = args[1].data_ptr()
            for start, stop, expert_bytes, layer in self.spans:
                if start <= address < stop:
                    expert = (address - start) // expert_bytes
                    call = _Call(report=self.report, layer=layer, inputs=args[0], expert=expert)
                    _listen(output, call)
        return output


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One call of a layer, waiting for its gradient."""

    report: Report
    layer: Layer
    inputs: Tensor | None
    expert: int | None = None

    def __call__(self, gradients: Tensor) -> None:
        inputs = None if self.inputs is None else self.inputs.detach().flatten(0, -2)
        gradients = gradients.detach().flatten(0, -2)
        self.report(Seen(layer=self.layer, inputs=inputs, gradients=gradients, expert=self.expert))


def _listen(output: Tensor, call: _Call) -> None:
    if output.requires_grad:
        output.register_hook(call)


_MATMULS = (torch.nn.functional.linear, torch.matmul, torch.mm, Tensor.matmul, Tensor.__matmul__)
