"""Which implementation multiplies with a packed weight, and why."""

from types import ModuleType

import torch

from bitplan.kernels.codebook import reference as codebook
from bitplan.kernels.integer import reference as integer
from bitplan.kernels.integer import triton
from bitplan.runtimes import unfit
from bitplan.schema import Scheme


def choose(
    scheme: Scheme, shape: tuple[int, ...], *, device: str = "cpu", lookup: bool = False
) -> tuple[str, str]:
    """The implementation (`"reference"`, `"cpu"` or `"triton"`) for a weight, and why.

    `lookup` says that rows are looked up in the weight, as in an embedding.

    >>> choose(Scheme.parse("int4g64"), (576, 1536))
    ('cpu', "torch's packed 4-bit matmul fits exactly.")
    """
    if scheme.is_float:
        return "reference", "A dense weight is multiplied as it is."
    if torch.device(device).type not in ("cpu", "cuda"):
        return "reference", f"There is no packed matmul for {device} yet."
    if len(shape) != 2 or lookup:
        return "reference", "Rows and experts are taken from the canonical layout."
    if torch.device(device).type == "cuda":
        # ROCm's devices are called so, too.
        reason = triton.unfit(scheme, shape[1])
        if reason is not None:
            return "reference", f"On {device}, {reason}."
        return "triton", f"The Triton kernels multiply {scheme.bits}-bit codes as they are stored."
    reason = unfit(scheme, *shape)
    if reason is not None:
        return "reference", f"{reason}."
    return "cpu", f"torch's packed {scheme.bits}-bit matmul fits exactly."


def reference_of(scheme: Scheme) -> ModuleType:
    """The module whose `linear` and `lookup` are the truth for a scheme that is not float."""
    return integer if scheme.is_integer else codebook
