"""Compiling the product with several weights for a device that is not there: see `ahead`."""

from typing import Any

import triton
from triton.compiler import ASTSource, CompiledKernel

from bitplan.kernels.gpu.ahead import BESIDE, DEVICES, TARGETS, choices_type, grid_type
from bitplan.kernels.gpu.grids import beside_of
from bitplan.kernels.gpu.launch import options
from bitplan.kernels.gpu.launch_several import PARAMETERS, kinds_of
from bitplan.kernels.gpu.several import matmul_of_several
from bitplan.kernels.gpu.spec import spec_of
from bitplan.kernels.gpu.together import Weights, one_launch
from bitplan.schema import Scheme

COLUMNS = 4096
"""Of all weights here."""

TOGETHER = {
    "int4g64 x 3": (("int4g64", 4096), ("int4g64", 1024), ("int4g64", 1024)),
    "int3g64, int4g64, int2g64": (("int3g64", 4096), ("int4g64", 1024), ("int2g64", 1024)),
    "nvfp4 x 3": (("nvfp4", 4096), ("nvfp4", 1024), ("nvfp4", 1024)),
    "int4g64 x 2": (("int4g64", 14336), ("int4g64", 14336)),
    "nf4g64, int4g64": (("nf4g64", 14336), ("int4g64", 14336)),
    "ternary2g64, int4g64, bitmod4g64": (
        *(("ternary2g64", 4096), ("int4g64", 1024), ("bitmod4g64", 1024)),
    ),
}
"""Queries, keys and values, or gate and up, of Llama 3.1 8B, that the table has."""


def weights_of(name: str) -> Weights:
    """Of a line of the table."""
    return tuple((Scheme.parse(scheme), rows) for scheme, rows in TOGETHER[name])


def compile_several_ahead(
    weights: Weights, tokens: int, target: str, dtype: str = "bf16", columns: int = COLUMNS
) -> CompiledKernel:
    """The kernel as it would be compiled at its first call on the target."""
    device = DEVICES[target]
    blocks, why = one_launch(weights, columns, tokens, device)
    assert blocks is not None, why
    members = []
    for (scheme, _), of in zip(weights, blocks, strict=True):
        planes = scheme.family.planes
        output = f"*{dtype}" if of.splits * planes == 1 else "*fp32"
        for plane in range(planes):
            spec, beside = (
                spec_of(columns, dtype, scheme, of, device, plane=plane),
                beside_of(scheme, plane),
            )
            kinds = {**BESIDE, "choices": choices_type(spec)}
            of_parameters = (kinds[name] if name in beside else None for name in PARAMETERS)
            member = ("*i32", grid_type(spec), *of_parameters, output, "i32")
            members.append((spec, member))
    found = kinds_of(members)
    types = {
        "inputs": f"*{dtype}",
        "kinds": tuple(tuple(of_kind) for of_kind in found.values()),
        "count": "i32",
        "stride": "i32",
        "SPECS": "constexpr",
    }
    fixed: dict[tuple, Any] = {(4,): tuple(found)}
    sixteens: list[tuple] = [(0,), (3,)]
    given = []
    for kind, of_kind in enumerate(found.values()):
        for number, member in enumerate(of_kind):
            for place, what in enumerate(member):
                path = (1, kind, number, place)
                if what is None:
                    fixed[path] = None
                else:
                    sixteens.append(path)
        given.append(tuple(tuple(what or "constexpr" for what in member) for member in of_kind))
    types["kinds"] = tuple(given)
    assert list(types) == matmul_of_several.arg_names
    divisible = {path: [["tt.divisibility", 16]] for path in sixteens}
    source = ASTSource(matmul_of_several, types, fixed, divisible)
    return triton.compile(source, target=TARGETS[target], options=options(blocks[0]))
