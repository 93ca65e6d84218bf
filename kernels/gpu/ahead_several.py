"""Compiling the product with several weights for a device that is not there: see `ahead`."""

from typing import Any

import triton
from triton.compiler import ASTSource, CompiledKernel

from bitplan.kernels.gpu.ahead import BESIDE, DEVICES, TARGETS, choices_type, grid_type
from bitplan.kernels.gpu.grids import beside_of
from bitplan.kernels.gpu.launch import REDUCED_AT_ONCE, options
from bitplan.kernels.gpu.launch_several import PARAMETERS, cut_of
from bitplan.kernels.gpu.several import matmul_of_several, reduce_several
from bitplan.kernels.gpu.together import Weights
from bitplan.schema import Scheme

COLUMNS = 4096
"""Of all weights here."""

TOGETHER = {
    "int4g64 x 3": (("int4g64", 4096), ("int4g64", 1024), ("int4g64", 1024)),
    "int3g64, int4g64, int2g64": (("int3g64", 4096), ("int4g64", 1024), ("int2g64", 1024)),
    "int3g64d, int4g64d, int5g64d": (("int3g64d", 4096), ("int4g64d", 1024), ("int5g64d", 1024)),
    "nvfp4 x 3": (("nvfp4", 4096), ("nvfp4", 1024), ("nvfp4", 1024)),
    "int4g64 x 2": (("int4g64", 14336), ("int4g64", 14336)),
    "nf4g64, int4g64": (("nf4g64", 14336), ("int4g64", 14336)),
    "ternary2g64, int4g64, bitmod4g64": (
        *(("ternary2g64", 4096), ("int4g64", 1024), ("bitmod4g64", 1024)),
    ),
}
"""Queries, keys and values, or gate and up, of Llama 3.1 8B, that the table has."""

TOGETHER_TOKENS = (1, 16)
"""Of each."""


def weights_of(name: str) -> Weights:
    """Of a line of the table."""
    return tuple((Scheme.parse(scheme), rows) for scheme, rows in TOGETHER[name])


def compile_several_ahead(
    weights: Weights, tokens: int, target: str, dtype: str = "bf16", columns: int = COLUMNS
) -> CompiledKernel:
    """The kernel as it would be compiled at its first call on the target."""
    cut = cut_of(weights, columns, tokens, dtype, DEVICES[target])
    assert cut is not None
    kinds = []
    for spec, kind in zip(cut.specs, cut.kinds, strict=True):
        types = {**BESIDE, "choices": choices_type(spec)}
        of_kind = []
        for number, plane in kind:
            beside = beside_of(weights[number][0], plane)
            of = (types[name] if name in beside else None for name in PARAMETERS)
            output = f"*{dtype}" if cut.copies[number] == 1 else "*fp32"
            of_kind.append(("*i32", grid_type(spec), *of, output, "i32"))
        kinds.append(tuple(of_kind))
    signature = {
        "inputs": f"*{dtype}",
        "kinds": tuple(kinds),
        "count": "i32",
        "stride": "i32",
        "SPECS": "constexpr",
    }
    given = {"SPECS": cut.specs}
    return _compile(matmul_of_several, signature, given, {"count"}, target, options(cut.blocks))


def compile_sums_ahead(outputs: int, target: str, dtype: str = "bf16") -> CompiledKernel:
    """The kernel that sums what splits made, of so many outputs."""
    of_output = ("*fp32", f"*{dtype}", "i32", "i32")
    signature = {"sums": (of_output,) * outputs, "BLOCK": "constexpr"}
    given = {"BLOCK": REDUCED_AT_ONCE}
    return _compile(reduce_several, signature, given, set(), target, {"enable_fp_fusion": True})


def _compile(
    kernel: Any,
    signature: dict[str, Any],
    given: dict[str, Any],
    odd: set[str],
    target: str,
    options: dict[str, Any],
) -> CompiledKernel:
    """Compile for pointers, rows and strides that 16 divides, but for what is odd, and for None."""
    assert list(signature) == kernel.arg_names
    fixed: dict[tuple[int, ...], Any] = {
        (list(signature).index(name),): value for name, value in given.items()
    }
    sixteens: dict[tuple[int, ...], Any] = {}

    def filled(what: Any, path: tuple[int, ...]) -> Any:
        if isinstance(what, tuple):
            return tuple(filled(one, (*path, place)) for place, one in enumerate(what))
        if what is None:
            fixed[path] = None
        elif what != "constexpr":
            sixteens[path] = [["tt.divisibility", 16]]
        return what or "constexpr"

    types = {name: filled(what, (place,)) for place, (name, what) in enumerate(signature.items())}
    for name in odd:
        del sixteens[(list(signature).index(name),)]
    source = ASTSource(kernel, types, fixed, sixteens)
    return triton.compile(source, target=TARGETS[target], options=options)
