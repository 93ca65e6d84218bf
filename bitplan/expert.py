"""One expert of a packed weight, as models use it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Expert:
    """One expert's matrix, the way round that the model reads it: [out, in], or [in, out].

    `nn.functional.linear`, or `@` where it is [in, out], multiply with it as it is packed, in the
    inputs' dtype. In any other function or operator of tensors, and to whoever asks for what a
    tensor has, it is the dense matrix, decoded for that call alone.

    Args:
        multiply: the product of inputs [*tokens, in] with the transposed weight.
        decode: gives the dense matrix.
        transposed: whether the model reads [in, out].
    """

    def __init__(
        self,
        multiply: Callable[[Tensor], Tensor],
        decode: Callable[[], Tensor],
        *,
        transposed: bool,
    ) -> None:
        self.multiply, self.decode, self.transposed = multiply, decode, transposed

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Multiply as it is packed, or take part as the dense matrix."""
        given = kwargs or {}
        if len(args) > 1 and isinstance(expert := args[1], cls) and not given.keys() - {"bias"}:
            is_product = func in _MATMULS if expert.transposed else func is nn.functional.linear
            if is_product and isinstance(args[0], Tensor):
                output = expert.multiply(args[0])
                bias = args[2] if len(args) > 2 else given.get("bias")
                return output if bias is None else output + bias.to(output.dtype)
        dense = {name: _dense(value) for name, value in given.items()}
        return func(*_dense(args), **dense)

    def __getattr__(self, name: str) -> Any:
        """What the dense matrix has."""
        if name.startswith("__"):  # who looks for a protocol of Python's asks for no numbers
            raise AttributeError(name)
        return getattr(self.decode(), name)


def _operator(name: str) -> Callable:
    def call(expert: Expert, *others: Any) -> Any:
        return getattr(expert.decode(), name)(*map(_dense, others))

    return call


for _name in ("add", "sub", "mul", "truediv", "matmul"):
    for _side in (_name, f"r{_name}"):
        setattr(Expert, f"__{_side}__", _operator(f"__{_side}__"))
for _name in ("neg", "pow", "getitem", "len"):  # Python looks these up in the class alone, too
    setattr(Expert, f"__{_name}__", _operator(f"__{_name}__"))

_MATMULS = (torch.matmul, Tensor.matmul, torch.mm, Tensor.mm)
"""As the compiler knows it, and as `@` calls it."""


def _dense(value: Any) -> Any:
    if isinstance(value, Expert):
        return value.decode()
    return type(value)(map(_dense, value)) if type(value) in (list, tuple) else value
