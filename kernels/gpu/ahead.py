"""Compiling the kernels for a device that is not there."""

from dataclasses import dataclass

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from bitplan.kernels.gpu.launch import REDUCED_AT_ONCE, constants, options
from bitplan.kernels.gpu.matmul import matmul, reduce
from bitplan.kernels.gpu.shapes import (
    DECODE_TOKENS,
    Blocks,
    Device,
    decode_blocks,
    prefill_blocks,
)
from bitplan.schema import Scheme

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
"""A100, H100, B200 and MI300X."""

DEVICES = {
    "sm_80": Device(multiprocessors=108),
    "sm_90": Device(multiprocessors=132),
    "sm_100": Device(multiprocessors=148),
    "gfx942": Device(multiprocessors=304, warp=64, cuda=False),
}


SIDE = 4096
"""Rows and columns of the weight that kernels are cut for here."""

TABLE = {
    "int2g64": (1,),
    "int3g64": (1,),
    "int4g64": (1, 16, 32, 64, 512),
    "int4g128s": (1,),
    "int8s": (1,),
}
"""Schemes and numbers of tokens that the table of static costs has."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kernel for a scheme and inputs of a dtype, cut into blocks."""

    scheme: Scheme
    columns: int
    dtype: str
    blocks: Blocks


def case_of(scheme: Scheme, tokens: int, target: str, dtype: str = "bf16") -> Case:
    """The kernel that a square weight and some tokens would run on a target."""
    device = DEVICES[target]
    if tokens > DECODE_TOKENS:
        blocks = prefill_blocks(SIDE, SIDE, tokens, device)
    else:
        blocks = decode_blocks(SIDE, SIDE, tokens, device)
    return Case(scheme=scheme, columns=SIDE, dtype=dtype, blocks=blocks)


def compile_ahead(case: Case, target: str) -> CompiledKernel:
    """The kernel as it would be compiled at its first call on the target."""
    blocks, device = case.blocks, DEVICES[target]
    groups = -(-case.columns // (case.scheme.group_size or case.columns))
    single = case.scheme.symmetric and groups % 2 == 1
    fixed = constants(case.columns, case.dtype, case.scheme, blocks, device)
    fixed["CUDA"] = device.cuda
    whole = blocks.splits == 1
    types = {
        "inputs": f"*{case.dtype}",
        "codes": "*i32",
        "grid": "*bf16" if single else "*u32",
        "outputs": f"*{case.dtype}" if whole else "*fp32",
        "rows": "i32",
        "count": "i32",
        "stride": "i32",
        "panels_each": "i32",
    }
    names = matmul.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    # Pointers, rows and stride that 16 divides are compiled for apart.
    sixteens = ("inputs", "codes", "grid", "outputs", "rows", "stride")
    source = ASTSource(
        matmul,
        signature,
        {(names.index(name),): value for name, value in fixed.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in sixteens},
    )
    return triton.compile(source, target=TARGETS[target], options=options(blocks))


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
