"""See the inputs of each layer and the gradients at its output, without changing the model."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.models import module_of, patches
from bitplan.schema import Kind, Layer


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one call of a layer was given, and the gradient of the loss at what it returned.

    `inputs` are the tokens [tokens] that were looked up, where the call was to an embedding.
    """

    layer: Layer
    inputs: Float[Tensor, "tokens in"] | Int[Tensor, "tokens"]
    gradients: Float[Tensor, "tokens out"]
    expert: int | None = None

    @property
    def is_lookup(self) -> bool:
        """Whether rows of an embedding were looked up."""
        return self.inputs.dim() == 1


Report = Callable[[Seen], None]


def by_layer(seen: Iterable[Seen]) -> dict[str, list[Seen]]:
    """The calls of each layer, by its name; of a layer without any, an empty list."""
    calls: dict[str, list[Seen]] = defaultdict(list)
    for one in seen:
        calls[one.layer.name].append(one)
    return calls


@contextmanager
def watch(model: nn.Module, layers: Sequence[Layer], report: Report) -> Iterator[None]:
    """Report every call of `layers` when its gradient arrives, within the block.

    Parameters require no gradient within it, so that none is computed or added to: what the
    embeddings and the layers return does.
    """
    with ExitStack() as stack:
        for parameter in model.parameters():
            if parameter.requires_grad:
                stack.callback(parameter.requires_grad_, True)
                parameter.requires_grad_(False)
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                stack.callback(module.register_forward_hook(_start_graph).remove)
        experts: dict[str, list[Layer]] = defaultdict(list)
        for layer in layers:
            if layer.kind is Kind.EXPERTS:
                experts[layer.parameter].append(layer)
                continue
            for name in (layer.name, *layer.tied):
                module = model.get_submodule(name)
                hook = _Hook(layer, report, lookup=isinstance(module, nn.Embedding))
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        for some in experts.values():
            _watch_experts(model, some, report, stack)
        yield


def _start_graph(module: nn.Module, args: Any, output: Any) -> Any:
    return _heard(output) if isinstance(output, Tensor) else None


@dataclass(frozen=True)
class _Hook:
    """A forward hook of a module that is called with its inputs."""

    layer: Layer
    report: Report
    lookup: bool

    def __call__(
        self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        inputs = (*args, *kwargs.values())[0]
        # What a table multiplies its rows by, it multiplies their errors by.
        factor = getattr(module, "embed_scale", None) if self.lookup else None
        call = _Call(
            report=self.report,
            layers={None: self.layer},
            inputs=inputs,
            factor=factor,
            lookup=self.lookup,
            convolution=module if isinstance(module, nn.Conv1d | nn.Conv2d) else None,
        )
        output = _heard(output)
        _listen(output, call)
        return output


def _watch_experts(
    model: nn.Module, layers: Sequence[Layer], report: Report, stack: ExitStack
) -> None:
    """Put a watched view in place of a parameter of experts; the stack puts the parameter back.

    `layers` is one layer of all experts, or a layer for each that is watched.
    """
    name = layers[0].parameter.rpartition(".")[2]
    parameters: dict[str, Any] = module_of(model, layers[0])._parameters
    stack.callback(parameters.__setitem__, name, parameters[name])
    weight = parameters[name].detach()
    watched = weight.as_subclass(_Experts)
    by_expert = {layer.expert: layer for layer in layers}
    watched.origin = _Origin(weight.data_ptr(), weight[0].nbytes, by_expert, report)
    parameters[name] = watched


class _Origin(NamedTuple):
    """Where the weights of experts begin, how many bytes one takes, and whom to tell of its use.

    `layers` are by expert; one of all experts is that of None.
    """

    address: int
    expert_bytes: int
    layers: Mapping[int | None, Layer]
    report: Report


class _Experts(Tensor):
    """Weights of experts, or a view of some, that see the matmuls in which they are the weight.

    A mode would see the same, but an interrupt while one is entered breaks torch's stack of modes.
    """

    origin: _Origin

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            output = func(*args, **(kwargs or {}))
            watched = next((arg for arg in args if isinstance(arg, _Experts)), None)
            if watched is None or not isinstance(output, Tensor):
                return output
            if func in _MATMULS and args[1] is watched:
                origin = watched.origin
                call = _Call(
                    report=origin.report,
                    layers=origin.layers,
                    inputs=args[0],
                    expert=(watched.data_ptr() - origin.address) // origin.expert_bytes,
                    stacked=watched.dim() == 3,
                )
                _listen(output, call)
            elif output.untyped_storage().data_ptr() == watched.untyped_storage().data_ptr():
                output = output.as_subclass(_Experts)
                output.origin = watched.origin
            return output


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One call of a layer, waiting for its gradient.

    `layers` are by expert, or the one of None. `stacked`: inputs and gradients are of several
    experts, from `expert` on. A `convolution`'s inputs are cut into patches when they are needed:
    they take several times the memory.
    """

    report: Report
    layers: Mapping[int | None, Layer]
    inputs: Tensor
    expert: int | None = None
    stacked: bool = False
    factor: float | Tensor | None = None
    lookup: bool = False
    convolution: nn.Conv1d | nn.Conv2d | None = None

    def __call__(self, gradients: Tensor) -> None:
        gradients = gradients.detach() if self.factor is None else gradients.detach() * self.factor
        inputs = self.inputs.detach()
        if self.convolution is not None:
            inputs, gradients = patches(inputs, self.convolution), gradients.movedim(1, -1)
        if self.expert is not None and self.stacked:
            inputs = inputs.expand(*gradients.shape[:2], inputs.shape[-1])
            for index, (rows, slopes) in enumerate(zip(inputs, gradients, strict=True)):
                self._tell(rows, slopes, self.expert + index)
        else:
            self._tell(inputs, gradients, self.expert)

    def _tell(self, inputs: Tensor, gradients: Tensor, expert: int | None) -> None:
        layer = self.layers.get(expert) or self.layers.get(None)
        if layer is None:  # one of several experts that no one asked for
            return
        expert = expert if layer.expert is None else None
        inputs = inputs.flatten() if self.lookup else inputs.flatten(0, -2)
        gradients = gradients.flatten(0, -2)
        self.report(Seen(layer=layer, inputs=inputs, gradients=gradients, expert=expert))


def _heard(output: Tensor) -> Tensor:
    """The output, with a gradient that can be heard of although the model may write into it.

    What is written into a leaf is an error, and into a view silences it: those are copied.
    """
    if torch.is_grad_enabled() and not output.requires_grad:
        output.requires_grad_()
    return (
        output.clone() if output.requires_grad and (output.is_leaf or output._is_view()) else output
    )


def _listen(output: Tensor, call: _Call) -> None:
    if torch.is_grad_enabled() and not output.requires_grad:
        output.requires_grad_()
    if output.requires_grad:
        output.register_hook(call)


_MATMULS = (
    torch.nn.functional.linear,
    torch.matmul,
    torch.mm,
    torch.bmm,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.mm,
    Tensor.bmm,
)
