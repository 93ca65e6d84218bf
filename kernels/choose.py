"""Which implementation multiplies with a packed weight, and why."""

import os
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch

from bitplan.errors import InputError
from bitplan.kernels.bitmod import reference as bitmod
from bitplan.kernels.bitmod import triton as bitmod_triton
from bitplan.kernels.codebook import reference as codebook
from bitplan.kernels.codebook import triton as codebook_triton
from bitplan.kernels.gpu import operator as gpu
from bitplan.kernels.integer import reference as integer
from bitplan.kernels.integer import triton as integer_triton
from bitplan.kernels.planes import reference as planes
from bitplan.kernels.planes import triton as planes_triton
from bitplan.kernels.sparse import reference as sparse
from bitplan.kernels.sparse import triton as sparse_triton
from bitplan.runtimes import unfit
from bitplan.schema import BASE, Scheme, parts

KERNEL = "BITPLAN_KERNEL"
"""Environment variable that names the implementation to use."""

COMPILED = ("dot", "dot8", "cpu")
"""Implementations whose products are jobs of compiled loops."""

EXPERT_ROWS = 4
"""Codes of so many rows are whole words of 32 bits: each expert's begin with one."""


def choose(
    scheme: Scheme,
    shape: tuple[int, ...],
    *,
    device: str = "cpu",
    lookup: bool = False,
    kernel: str | None = None,
) -> tuple[str, str]:
    """The implementation for a weight, or for its base, and the reason, in a sentence.

    - `dot`: compiled loops of products of bytes, on processors that have them, for integers;
    - `dot8`: the same with inputs rounded to 8 bits, quicker and less exact; only when asked for;
    - `cpu`: compiled loops that read the codes at their true width, on any processor;
    - `torch`: torch's own packed matmuls on the CPU, only when asked for, and only where they fit;
    - `triton`: kernels of CUDA and ROCm devices;
    - `reference`: decodes, on any device.

    Experts are multiplied one by one by compiled loops, and all in one launch by Triton's kernels.

    Args:
        scheme: of the weight.
        shape: of the weight.
        device: where it is.
        lookup: whether rows are looked up in it, as in an embedding.
        kernel: the implementation to use wherever it can be, and the reference elsewhere; None:
            that of the environment variable BITPLAN_KERNEL, or else the fastest.

    Raises `InputError` for a kernel that there is not.

    >>> choose(Scheme.parse("int3g64"), (576, 1536), kernel="cpu")
    ('cpu', 'Compiled loops multiply 3-bit codes as they are packed.')
    """
    if scheme.is_composed:
        base, of_base = parts(scheme, shape)[BASE]
        found, why = choose(base, of_base, device=device, lookup=lookup, kernel=kernel)
        return (
            found,
            f"{why} That is of its base; each of its other parts has a product of its own.",
        )
    kind = torch.device(device).type
    wanted = kernel or os.environ.get(KERNEL) or FASTEST.get(kind, "reference")
    if wanted not in KERNELS:
        raise InputError(
            f"There is no kernel {wanted!r}. Choose one of {', '.join(KERNELS)} (by the argument "
            f"or the environment variable {KERNEL})."
        )
    if scheme.is_float:
        return "reference", "A dense weight is multiplied as it is."
    if kind not in FASTEST:
        return "reference", f"There is no packed matmul for {device} yet."
    if not all(shape):
        return "reference", "There is nothing to multiply."
    needed, how = KERNELS[wanted]
    if needed not in (kind, None):
        return "reference", f"{wanted} runs on no {kind} device."
    if len(shape) == 3:
        return _experts(how, scheme, shape)
    return how(scheme, shape, lookup)


def reference_of(scheme: Scheme) -> ModuleType:
    """The module whose `linear` and `lookup` are the truth for a scheme that is not float."""
    return _REFERENCES[_family(scheme)]


def arranged_for(scheme: Scheme, implementation: str) -> Any:
    """What arranges, restores and multiplies for an implementation but the reference."""
    return _arranged(implementation, _family(scheme), _is_even(scheme))


def _family(scheme: Scheme) -> str:
    """The folder of its kernels."""
    if scheme.sparsity:
        return "sparse"
    if scheme.is_integer:
        return "integer"
    if scheme.family.choices > 1:
        return "bitmod"
    return "planes" if scheme.family.planes > 1 else "codebook"


def _is_even(scheme: Scheme) -> bool:
    """Whether its codes are integers, which need no table."""
    return scheme.is_integer or scheme.format == "bfp" or scheme.family.is_ternary


_REFERENCES = {
    "integer": integer,
    "planes": planes,
    "codebook": codebook,
    "sparse": sparse,
    "bitmod": bitmod,
}


_TRITON = {
    "integer": integer_triton,
    "planes": planes_triton,
    "codebook": codebook_triton,
    "bitmod": bitmod_triton,
    "sparse": sparse_triton,
}


@cache
def _arranged(implementation: str, family: str, is_even: bool) -> Any:
    # Imported here, for compiled loops take half a second to import, which only weights need.
    if implementation == "triton":
        return _TRITON[family]
    if implementation == "torch":
        from bitplan.kernels.integer import torch_packed

        return torch_packed
    if family == "integer":
        from bitplan.kernels.integer import cpu

        return {"dot": cpu.DOT, "dot8": cpu.DOT8, "cpu": cpu.LOOPS}[implementation]
    if family == "planes":
        from bitplan.kernels.planes import cpu

        return cpu
    if family == "sparse":
        from bitplan.kernels.sparse import cpu

        return cpu
    if family == "bitmod":
        from bitplan.kernels.bitmod import cpu

        return cpu
    from bitplan.kernels.codebook import cpu, even

    return even if is_even else cpu


def _dot(scheme: Scheme, shape: tuple[int, ...], lookup: bool) -> tuple[str, str]:
    if not scheme.is_integer or scheme.sparsity:
        return _cpu(scheme, shape, lookup)
    from bitplan.kernels.integer import cpu

    if (reason := cpu.unfit(scheme, *shape)) is None:
        return "dot", f"Products of bytes multiply {scheme.bits}-bit codes as they are packed."
    name, how = _cpu(scheme, shape, lookup)
    return name, f"{how} {reason}."


def _dot8(scheme: Scheme, shape: tuple[int, ...], lookup: bool) -> tuple[str, str]:
    name, how = _dot(scheme, shape, lookup)
    if name != "dot":
        return name, how
    return "dot8", f"{how[:-1]}, with inputs rounded to 8 bits, a step for every 32."


def _cpu(scheme: Scheme, shape: tuple[int, ...], lookup: bool) -> tuple[str, str]:
    del shape, lookup
    if scheme.family.planes > 1 and scheme.sparsity:
        return "reference", "No compiled loop leaves weights out of two planes."
    if scheme.family.planes > 1 and scheme.double:
        return "reference", "Compiled loops read no plane whose scale is a byte less 128."
    if scheme.group_size and scheme.group_size % 16:
        return "reference", "Compiled loops take groups of 16, 32, 48 and so on."
    if scheme.sparsity:
        return "cpu", f"Compiled loops spread the kept codes of a row, {scheme.sparsity}, as read."
    if scheme.family.choices > 1:
        return "cpu", "Compiled loops look codes up in the table that their group chose."
    if scheme.family.planes > 1:
        what = "ternary codes" if scheme.family.is_ternary else "bits"
        return "cpu", f"Compiled loops multiply two planes of {what}, one after the other."
    if scheme.family.is_ternary:
        return "cpu", "Compiled loops multiply ternary codes as they are packed, five to a byte."
    how = "as they are packed" if _is_even(scheme) else "through their table"
    return "cpu", f"Compiled loops multiply {scheme.bits}-bit codes {how}."


def _torch(scheme: Scheme, shape: tuple[int, ...], lookup: bool) -> tuple[str, str]:
    if lookup:
        return "reference", "Rows are taken from the canonical layout."
    reason = unfit(scheme, *shape)
    if reason is not None:
        return "reference", f"{reason}."
    return "torch", f"torch's packed {scheme.bits}-bit matmul fits exactly."


def _reference(scheme: Scheme, shape: tuple[int, ...], lookup: bool) -> tuple[str, str]:
    del scheme, shape, lookup
    return "reference", "It was asked for."


def _triton(scheme: Scheme, shape: tuple[int, ...], lookup: bool) -> tuple[str, str]:
    if lookup and scheme.sparsity:
        return "reference", "No Triton kernel looks up rows that leave weights out."
    reason = gpu.unfit(scheme, shape[1])
    if reason is not None:
        return "reference", f"{reason[0].upper()}{reason[1:]}."
    if scheme.sparsity:
        how = f"spread the kept codes of a row, {scheme.sparsity}, in registers"
    elif scheme.family.choices > 1:
        how = "look codes up in the table that their group chose"
    elif scheme.family.planes > 1:
        how = "multiply two planes, one after the other, as they are stored"
    elif scheme.family.is_ternary:
        how = "multiply ternary codes, five to a byte, as they are stored"
    else:
        how = f"multiply {scheme.bits}-bit codes as they are stored"
    return "triton", f"The Triton kernels {how}."


def _experts(how: "How", scheme: Scheme, shape: tuple[int, ...]) -> tuple[str, str]:
    if how is _triton:
        if scheme.sparsity:
            return "reference", "No Triton kernel leaves weights of experts out."
        name, why = how(scheme, shape[1:], False)
        return name, f"{why} That is of all experts at once." if name == "triton" else why
    if how not in (_dot, _dot8, _cpu, _reference):
        return "reference", "Experts are decoded one by one from the canonical layout."
    if shape[1] % EXPERT_ROWS:
        return "reference", f"Compiled loops take experts with rows in {EXPERT_ROWS}s."
    name, why = how(scheme, shape[1:], False)
    return name, f"{why} That is of one expert after another."


How = Callable[[Scheme, tuple[int, ...], bool], tuple[str, str]]

KERNELS: dict[str, tuple[str | None, How]] = {
    "dot": ("cpu", _dot),
    "dot8": ("cpu", _dot8),
    "cpu": ("cpu", _cpu),
    "torch": ("cpu", _torch),
    "triton": ("cuda", _triton),
    "reference": (None, _reference),
}
"""By name the kind of device that each is for, and whether it reads a weight."""

FASTEST = {"cpu": "dot", "cuda": "triton"}
"""What is taken unless something else is asked for; ROCm's devices are called cuda, too."""
