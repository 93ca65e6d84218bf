"""A weight of one part as the file holds it, laid out for the kernel that multiplies with it."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.formats import Packed
from bitplan.kernels import COMPILED, arranged_for, choose, differentiable, operators, reference_of
from bitplan.memory import release
from bitplan.schema import Scheme
from bitplan.weight import AbstractWeight


class PackedWeight(AbstractWeight):
    """A weight of one part.

    Holds what the file holds, byte for byte: the tensors of `Packed`. Scales and offsets of a
    floating-point type are parameters, so that they can be tuned. `arrange` may turn the tensors
    into those of a faster matmul, of as many bytes; `state_dict` gives the canonical ones still.
    """

    def __init__(
        self, packed: Packed, *, compute_dtype: torch.dtype, transposed: bool = False
    ) -> None:
        super().__init__()
        self.scheme, self.shape = packed.scheme, torch.Size(packed.shape)
        self.compute_dtype, self.transposed = compute_dtype, transposed
        self.implementation, self._name = "reference", str(self.scheme)
        self._wish: dict[str, Any] | None = None  # what `arrange` was asked for; None: never
        self._hold(packed.tensors)

    def _hold(self, tensors: dict[str, Tensor]) -> None:
        self.layout = object()
        for name in (*self._parameters, *self._buffers):
            delattr(self, name)
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
            else:
                self.register_buffer(name, tensor)

    def held(self, expert: int | None = None) -> dict[str, Tensor]:
        """The tensors as they are laid out, or those of one expert."""
        held = {**self._parameters, **self._buffers}
        found = {name: tensor for name, tensor in held.items() if tensor is not None}
        if expert is None:
            return found
        return {name: tensor[expert] for name, tensor in found.items()}

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(iter(self.held().values())).device

    def packed(self, expert: int | None = None) -> Packed:
        """The canonical tensors, or those of one expert."""
        tensors = self.held(expert)
        shape = tuple(self.shape if expert is None else self.shape[1:])
        if self.implementation != "reference":
            kernel = arranged_for(self.scheme, self.implementation)
            tensors = _of_each(kernel.restore, tensors, self.scheme, shape)
        return Packed(scheme=self.scheme, shape=shape, tensors=tensors)

    @torch.no_grad()
    def arrange(self, *, lookup: bool = False, kernel: str | None = None) -> None:
        """See `AbstractWeight.arrange`."""
        self._wish = {"lookup": lookup, "kernel": kernel}
        wanted, _ = choose(
            self.scheme, self.shape, device=str(self.device), lookup=lookup, kernel=kernel
        )
        self.lay_out(wanted)

    @torch.no_grad()
    def lay_out(self, implementation: str) -> None:
        """Lay the tensors out for one implementation, of those that `choose` names."""
        if implementation == self.implementation:
            return
        tensors = self.packed().tensors
        if implementation != "reference":
            kernel = arranged_for(self.scheme, implementation)

            def arrange(matrix: dict[str, Tensor], *of: Any) -> dict[str, Tensor]:
                arranged = kernel.arrange(matrix, *of)
                release(matrix.values())  # of a mapped file: they are not needed beside it
                return arranged

            tensors = _of_each(arrange, tensors, self.scheme, tuple(self.shape))
        self._hold(tensors)
        self.implementation = implementation
        if implementation == "triton" and self.device.type == "cuda":
            # Imported here, for only then a compiled model has something to join.
            from bitplan.kernels.gpu.joined import install

            install()

    def multiply(
        self, inputs: Float[Tensor, "*tokens in"], expert: int | None = None
    ) -> Float[Tensor, "*tokens out"]:
        """Product with the transposed weight, or with an expert's, in the inputs' dtype."""
        self.check(inputs)
        held = self.held(expert)
        if self.scheme.is_float:
            return nn.functional.linear(inputs, held["weight"].to(inputs.dtype))
        if torch.compiler.is_compiling() and not any(t.requires_grad for t in held.values()):
            rows = self.shape[-2]
            return operators.linear(inputs, held, self._name, self.implementation, rows)
        if self.implementation == "reference":
            return reference_of(self.scheme).linear(inputs, held, self.scheme)
        kernel = arranged_for(self.scheme, self.implementation)
        if torch.is_grad_enabled():
            if any(tensor.requires_grad for tensor in held.values()) or (
                inputs.requires_grad and self.implementation in ("torch", "triton")
            ):
                # These products have no derivative in the scales, or none at all.
                held = self.packed(expert).tensors
                return reference_of(self.scheme).linear(inputs, held, self.scheme)
            if inputs.requires_grad:
                return differentiable(inputs, held, self.scheme, kernel)
        return kernel.linear(inputs, held, self.scheme)

    @property
    def is_grouped(self) -> bool:
        """See `AbstractWeight.is_grouped`."""
        return len(self.shape) == 3 and self.implementation == "triton"

    def multiply_sorted(
        self, inputs: Float[Tensor, "tokens in"], ends: Int[Tensor, "experts"]
    ) -> Float[Tensor, "tokens out"]:
        """See `AbstractWeight.multiply_sorted`."""
        held = self.held()
        has_slope = any(tensor.requires_grad for tensor in (inputs, *held.values()))
        if not self.is_grouped or (has_slope and torch.is_grad_enabled()):
            return super().multiply_sorted(inputs, ends)
        self.check(inputs)
        kernel = arranged_for(self.scheme, self.implementation)
        return kernel.grouped(inputs, ends, held, self.scheme)

    def few(self, count: int, dtype: torch.dtype) -> Any:
        """See `AbstractWeight.few`."""
        if self.scheme.is_float:
            # Imported here, for compiled loops take half a second to import.
            from bitplan.kernels.native.dense import dense

            return dense(self.held()["weight"], count)
        if self.implementation not in COMPILED:
            return None
        kernel = arranged_for(self.scheme, self.implementation)
        return kernel.few(self.held(), self.scheme, self.shape[-1], count, dtype)

    def lookup(self, tokens: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens hidden"]:
        """Rows of the weight."""
        if self.scheme.is_float:
            rows = nn.functional.embedding(tokens, self.held()["weight"])
            return rows.to(self.compute_dtype)
        columns, dtype, held = self.shape[-1], self.compute_dtype, self.held()
        if torch.compiler.is_compiling() and not any(t.requires_grad for t in held.values()):
            kernel = self.implementation
            return operators.lookup(tokens, held, self._name, kernel, columns, dtype)
        if self.implementation == "reference":
            kernel = reference_of(self.scheme)
        elif torch.is_grad_enabled() and any(t.requires_grad for t in held.values()):
            kernel, held = reference_of(self.scheme), self.packed().tensors
        else:
            kernel = arranged_for(self.scheme, self.implementation)
        return kernel.lookup(tokens, held, self.scheme, columns, dtype)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # A tied weight is saved by several names: as the same tensors, although each restoring of
        # what is arranged makes others.
        saved = _SAVED.get(self)
        if saved is not None and saved[0]() is destination:
            tensors = {name: destination[saved[1] + name] for name in saved[2]}
        else:
            tensors = self.packed().tensors
            if self.implementation != "reference" and isinstance(destination, OrderedDict):
                _SAVED[self] = (ref(destination), prefix, tuple(tensors))
        for name, tensor in tensors.items():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **keywords: Any
    ) -> None:
        before = self.implementation
        if any(name.startswith(prefix) for name in state_dict):
            self.lay_out("reference")
        super()._load_from_state_dict(state_dict, prefix, *args, **keywords)
        self.layout = object()  # loading may have put other tensors in
        self.lay_out(before)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedWeight":
        """Move to another device, or compute in another dtype; what is held keeps its own."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        self.lay_out("reference")
        super()._apply(move, recurse)
        self.layout = object()
        if self._wish is not None:  # another device has other implementations
            self.arrange(**self._wish)
        self.compute_dtype = fn(torch.empty(0, dtype=self.compute_dtype)).dtype
        return self

    def extra_repr(self) -> str:
        """Shape, scheme and implementation."""
        return f"{super().extra_repr()}, {self.implementation}"


def _of_each(
    change: Callable[[dict[str, Tensor], Scheme, int], dict[str, Tensor]],
    tensors: dict[str, Tensor],
    scheme: Scheme,
    shape: tuple[int, ...],
) -> dict[str, Tensor]:
    """Arrange or restore a matrix, or each expert's, one after another."""
    if len(shape) == 2:
        return change(tensors, scheme, shape[-1])
    changed: dict[str, Tensor] = {}
    for expert in range(shape[0]):
        matrix = {name: tensor[expert] for name, tensor in tensors.items()}
        for name, tensor in change(matrix, scheme, shape[-1]).items():
            if name not in changed:
                changed[name] = tensor.new_empty(shape[0], *tensor.shape)
            changed[name][expert] = tensor
    return changed


_SAVED: WeakKeyDictionary[PackedWeight, tuple[ref[Any], str, tuple[str, ...]]]
_SAVED = WeakKeyDictionary()
"""Where arranged weights were saved last, by which prefix and names."""
