"""Compiling the kernels for a device that is not there."""

from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from bitplan.kernels.gpu.experts import matmul_of_experts
from bitplan.kernels.gpu.grids import beside_of
from bitplan.kernels.gpu.launch import REDUCED_AT_ONCE, lookup_options, lookup_specs, options
from bitplan.kernels.gpu.launch_experts import experts_blocks
from bitplan.kernels.gpu.matmul import matmul, reduce
from bitplan.kernels.gpu.rows import look_up
from bitplan.kernels.gpu.shapes import Blocks, Device, blocks_of
from bitplan.kernels.gpu.spec import Spec, spec_of
from bitplan.schema import Scheme

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
"""A100, H100, B200, RTX 5090 and MI300X."""

DEVICES = {
    "sm_80": Device(multiprocessors=108),
    "sm_90": Device(multiprocessors=132),
    "sm_100": Device(multiprocessors=148),
    "sm_120": Device(multiprocessors=170),
    "gfx942": Device(multiprocessors=304, warp=64, cuda=False),
}


SIDE = 4096
"""Rows of the weight that kernels are cut for here, and columns where nothing else is said."""

TABLE = {
    "int2g64": (1,),
    "int3g64": (1,),
    "int4g64": (1, 16, 32, 64, 512),
    "int2g64d": (1,),
    "int3g64d": (1,),
    "int4g64d": (1, 16, 64, 512),
    "int5g64d": (1,),
    "int4g128s": (1,),
    "int8s": (1,),
    "signg64": (1,),
    "fp8g64": (1,),
    "fp6g64": (1,),
    "fp4g64": (1,),
    "nf4g64": (1, 16, 64, 512),
    "nf3g64": (1,),
    "bitmod4g64": (1, 16, 64, 512),
    "bitmod3g64": (1,),
    "binary2g64": (1, 16, 64, 512),
    "ternaryg64": (1, 16, 64, 512),
    "bfp4g64": (1,),
    "mxfp8": (1,),
    "mxfp6": (1,),
    "mxfp4": (1, 16, 64, 512),
    "nvfp4": (1, 16, 64, 512),
    "int4g64+2:4": (1, 16, 64, 512),
    "int4g64s+2:4": (1,),
    "int3g64+2:4": (1,),
    "int4g64+4:8": (1,),
    "nf4g64+2:4": (1,),
    "int4g64+50%": (1, 16, 64, 512),
    "nf4g64+50%": (1,),
}
"""Schemes and numbers of tokens that the table of static costs has."""

EXPERTS = 64
"""Stacked weights that kernels are cut for."""

MIXTURES = {
    "int4g64": (1, 16, 64, 512),
    "nf4g64": (1, 64),
    "bitmod4g64": (1, 64),
    "nvfp4": (1, 64),
    "ternaryg64": (1, 64),
}
"""Schemes and tokens of each expert that the table has."""

LOOKUPS = ("int3g64", "int4g64", "nf4g64", "bitmod4g64", "nvfp4", "ternaryg64", "binary2g64")
"""Schemes of which it has what a lookup of rows costs, too."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kernel for a scheme and inputs of a dtype, cut into blocks; of a matrix, or of experts.

    Those may be all that there are, or the members of one of several stacks.
    """

    scheme: Scheme
    columns: int
    dtype: str
    blocks: Blocks
    experts: int = 0
    members: bool = False


def case_of(
    scheme: Scheme, tokens: int, target: str, dtype: str = "bf16", columns: int = SIDE
) -> Case:
    """The kernel that a weight of so many columns and some tokens would run on a target."""
    blocks = blocks_of(scheme, SIDE, columns, tokens, DEVICES[target])
    return Case(scheme=scheme, columns=columns, dtype=dtype, blocks=blocks)


def experts_case_of(
    scheme: Scheme, tokens: int, target: str, dtype: str = "bf16", *, members: bool = False
) -> Case:
    """The kernel that `EXPERTS` stacked weights and some tokens of each would run on a target."""
    given = (SIDE, SIDE, EXPERTS * tokens, EXPERTS, DEVICES[target])
    of = {"blocks": experts_blocks(scheme, *given, members=members), "members": members}
    return Case(scheme=scheme, columns=SIDE, dtype=dtype, experts=EXPERTS, **of)


def compile_ahead(case: Case, target: str) -> CompiledKernel:
    """The kernel as it would be compiled at its first call on the target."""
    blocks, scheme = case.blocks, case.scheme
    kernel = matmul_of_experts if case.experts else matmul
    spec = spec_of(case.columns, case.dtype, scheme, blocks, DEVICES[target])
    types = {
        "inputs": f"*{case.dtype}",
        "codes": "*i32",
        "grid": grid_type(spec),
        "outputs": f"*{case.dtype}" if blocks.splits == 1 else "*fp32",
        "rows": "i32",
        "count": "i32",
        "stride": "i32",
        "panels_each": "i32",
        "ends": "*i32",
        "codes_each": "i32",
        "grid_each": "i32",
        "choices_each": "i32",
    }
    fixed: dict[str, Any] = {"SPEC": spec, "EXPERTS": case.experts}
    # Pointers, rows and stride that 16 divides are compiled for apart.
    sixteens = ["inputs", "codes", "grid", "outputs", "rows", "stride", "ends"]
    sixteens += ["codes_each", "grid_each", "choices_each"]
    if case.members:
        types["held"] = "i32"
    else:
        fixed["held"] = None
    given = {*beside_of(scheme), *(["members"] if case.members else [])}
    for name, kind in {**BESIDE, "choices": choices_type(spec), "members": "*i64"}.items():
        if name in given:
            types[name] = kind
            sixteens.append(name)
        else:
            fixed[name] = None
    names = kernel.arg_names
    source = ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in names},
        {(names.index(name),): value for name, value in fixed.items() if name in names},
        {(names.index(name),): [["tt.divisibility", 16]] for name in sixteens if name in names},
    )
    return triton.compile(source, target=TARGETS[target], options=options(blocks))


BESIDE = {
    "matrix_scale": "*fp32",
    "scale_step": "*bf16",
    "offset_step": "*bf16",
    "mask16": "*i16",
    "mask8": "*i16",
    "streams": "*i32",
    "starts": "*i32",
}


def choices_type(spec: Spec) -> str:
    """Of the words of choices."""
    return "*i32" if spec.choices_per == 16 else "*i16"


def grid_type(spec: Spec) -> str:
    """Of the words of the grid."""
    numbers = spec.per * (1 if spec.symmetric else 2)
    if spec.scale == "bf16":
        return "*bf16" if numbers == 1 else "*u32"
    return f"*u{8 * numbers}"


def compile_sum_ahead(target: str, dtype: str = "bf16") -> CompiledKernel:
    """The kernel that sums what splits made."""
    signature = {
        "parts": "*fp32",
        "outputs": f"*{dtype}",
        "size": "i32",
        "copies": "i32",
        "BLOCK": "constexpr",
    }
    sixteens = {(place,): [["tt.divisibility", 16]] for place in range(3)}
    source = ASTSource(reduce, signature, {(4,): REDUCED_AT_ONCE}, sixteens)
    return triton.compile(source, target=TARGETS[target], options={"enable_fp_fusion": True})


def compile_lookup_ahead(
    scheme: Scheme, target: str, dtype: str = "bf16", columns: int = SIDE
) -> CompiledKernel:
    """The kernel that looks rows up."""
    specs = lookup_specs(scheme, columns, DEVICES[target])
    names, fixed, sixteens = look_up.arg_names, {}, [("tokens",), ("outputs",), ("rows",)]

    def given(path: tuple, kind: str | None) -> str:
        if kind is None:
            fixed[path] = None
        else:
            sixteens.append(path)
        return kind or "constexpr"

    planes = []
    for plane, [spec, *_] in enumerate(specs):
        of = beside_of(scheme, plane)
        kinds = [BESIDE[key] if key in of else None for key in ("scale_step", "offset_step")]
        kinds = enumerate(("*i32", grid_type(spec), *kinds))
        planes.append(tuple(given(("planes", plane, n), kind) for n, kind in kinds))
    spec, of = specs[0][0], beside_of(scheme)
    types = {
        "tokens": "*i64",
        "planes": tuple(planes),
        "matrix_scale": given(("matrix_scale",), BESIDE.get(of.get("matrix_scale", ""))),
        "choices": given(("choices",), choices_type(spec) if "choices" in of else None),
        "outputs": f"*{dtype}",
        "count": "i32",
        "rows": "i32",
        "SPECS": "constexpr",
    }
    fixed[("SPECS",)] = specs
    source = ASTSource(
        look_up,
        types,
        {(names.index(name), *rest): value for (name, *rest), value in fixed.items()},
        {(names.index(name), *rest): [["tt.divisibility", 16]] for name, *rest in sixteens},
    )
    return triton.compile(source, target=TARGETS[target], options=lookup_options())
