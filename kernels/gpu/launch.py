"""Launching the Triton kernels."""

from collections.abc import Sequence
from functools import cache, partial
from itertools import product
from typing import Any, TypeAlias

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.formats import MATRIX_SCALE
from bitplan.kernels.gpu import trials
from bitplan.kernels.gpu.grids import CHOICE, all_beside, beside_of, words_of
from bitplan.kernels.gpu.layout import panel_of
from bitplan.kernels.gpu.matmul import matmul, reduce
from bitplan.kernels.gpu.numbers import PARTS, parts_of
from bitplan.kernels.gpu.rows import look_up
from bitplan.kernels.gpu.shapes import LOOKUP, Blocks, Device, blocks_of
from bitplan.kernels.gpu.spec import Spec, spec_of
from bitplan.schema import Scheme

REDUCED_AT_ONCE = 1024

Planes: TypeAlias = list[tuple[Tensor, Tensor, dict[str, Tensor]]]
"""Codes and grid of each plane, and what is beside them by the kernel's parameters."""

NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def multiply(
    inputs: Float[Tensor, "tokens in"],
    codes: Tensor,
    grid: Tensor,
    beside: Sequence[Tensor],
    scheme: Scheme,
) -> Float[Tensor, "tokens out"]:
    """Product with the transposed weight, in the inputs' dtype: of two planes the sum of both."""
    tokens, columns = inputs.shape
    rows = grid.shape[1]
    output = inputs.new_empty(tokens, rows)
    if not output.numel():
        return output
    device = device_of(inputs.device)
    precise = inputs.dtype not in NAMES
    if precise:
        # Exactly what float32 holds, as three numbers of bfloat16; codes are exact in one, or
        # as exact in three.
        inputs, copies = thirds(inputs), PARTS
    else:
        inputs, copies = inputs.contiguous() if inputs.stride(-1) != 1 else inputs, 1
    dtype = NAMES[inputs.dtype]
    planes = planes_of(codes, grid, dict(zip(all_beside(scheme), beside, strict=True)), scheme)
    of_inputs = {"precise": precise, "copies": copies}
    run = partial(_run, inputs, planes, output, scheme, device, dtype, **of_inputs)
    if trials.is_asked_for():
        of_trial = {"place": inputs.device, "run": run, "precise": precise}
        blocks = trials.tried(scheme, rows, columns, len(inputs), dtype, device, **of_trial)
    else:
        blocks = blocks_of(scheme, rows, columns, len(inputs), device, precise=precise)
    run(blocks)
    return output


def _run(
    inputs: Tensor,
    planes: Planes,
    output: Tensor,
    scheme: Scheme,
    device: Device,
    dtype: str,
    blocks: Blocks,
    *,
    precise: bool,
    copies: int,
) -> None:
    """Write the product, cut so, to the output."""
    (tokens, rows), columns = output.shape, inputs.shape[1]
    tables = parts_of(scheme, precise=precise)
    launches = list(product(range(len(planes)), range(tables)))
    sums = len(launches) * blocks.splits * copies
    if sums == 1:
        spec = spec_of(columns, dtype, scheme, blocks, device)
        launch(inputs, *planes[0], output, spec, blocks)
        return
    shape = (len(launches), blocks.splits, copies, tokens, rows)
    parts = inputs.new_empty(shape, dtype=torch.float32)
    for number, (plane, part) in enumerate(launches):
        of = {"precise": precise, "part": part, "plane": plane}
        spec = spec_of(columns, dtype, scheme, blocks, device, **of)
        launch(inputs, *planes[plane], parts[number], spec, blocks)
    add_up(parts, output, sums)


def add_up(parts: Tensor, output: Tensor, sums: int) -> Tensor:
    """Write the sum of so many parts, one after the other, to the output."""
    size = output.numel()
    programs = (triton.cdiv(size, REDUCED_AT_ONCE),)
    block: Any = REDUCED_AT_ONCE
    with torch.cuda.device_of(output):
        reduce[programs](parts, output, size, sums, BLOCK=block)
    return output


def planes_of(codes: Tensor, grid: Tensor, beside: dict[str, Tensor], scheme: Scheme) -> Planes:
    """Codes and grid of each plane, and what is beside them by the kernel's parameters.

    Of a matrix, or of a stack of them.
    """
    count, axis = scheme.family.planes, codes.dim() - 1
    split = zip(codes.chunk(count, axis), grid.chunk(count, axis), strict=True)
    return [
        (*both, {key: beside[name] for key, name in beside_of(scheme, plane).items()})
        for plane, both in enumerate(split)
    ]


def thirds(inputs: Float[Tensor, "tokens in"]) -> Float[Tensor, "3*tokens in"]:
    """Three tensors of bfloat16 that sum up to the inputs in float32, one after the other."""
    rest, parts = inputs.float(), []
    for _ in range(3):
        parts.append(rest.bfloat16())
        rest = rest - parts[-1].float()
    return torch.cat(parts)


@cache
def device_of(device: torch.device) -> Device:
    """What the model of shapes knows; a CPU, which interprets, passes for a small device."""
    if device.type != "cuda":
        return Device(multiprocessors=2)
    properties = torch.cuda.get_device_properties(device)
    return Device(
        multiprocessors=properties.multi_processor_count,
        cuda=torch.version.hip is None,
    )


def launch(
    inputs: Tensor,
    codes: Tensor,
    grid: Tensor,
    beside: dict[str, Tensor],
    outputs: Tensor,
    spec: Spec,
    blocks: Blocks,
) -> None:
    """Write the products of each split, [splits, tokens, rows]."""
    tokens, rows = len(inputs), outputs.shape[-1]
    programs = (triton.cdiv(rows, blocks.rows), blocks.splits, triton.cdiv(tokens, blocks.tokens))
    constant: Any = spec
    # Triton launches on the current device.
    with torch.cuda.device_of(inputs):
        matmul[programs](
            inputs,
            codes,
            words_of(grid),
            beside.get("matrix_scale"),
            beside.get("scale_step"),
            beside.get("offset_step"),
            beside.get("choices"),
            beside.get("mask16"),
            words_of_bytes(beside.get("mask8")),
            beside.get("streams"),
            beside.get("starts"),
            outputs,
            rows,
            tokens,
            inputs.stride(0),
            blocks.panels,
            SPEC=constant,
            **options(blocks),
        )


def words_of_bytes(mask: Tensor | None) -> Tensor | None:
    """Two bytes as one word."""
    return None if mask is None else mask.view(torch.int16)


def options(blocks: Blocks) -> dict[str, Any]:
    """Options of the compiler."""
    limit: dict[str, Any] = {"maxnreg": blocks.registers} if blocks.registers else {}
    stages, warps = blocks.stages, blocks.warps
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True, **limit}


def take(
    tokens: Int[Tensor, "tokens"],
    codes: Tensor,
    grid: Tensor,
    beside: Sequence[Tensor],
    scheme: Scheme,
    columns: int,
    dtype: torch.dtype,
) -> Float[Tensor, "tokens columns"]:
    """Rows of the weight, of a dtype.

    One that there is not stops the device, as one that torch's own functions look up does.
    """
    count, rows = len(tokens), grid.shape[1]
    output = torch.empty(count, columns, dtype=dtype, device=grid.device)
    if not output.numel():
        return output
    named = dict(zip(all_beside(scheme), beside, strict=True))
    planes = tuple(
        (plane, words_of(of_plane), of.get("scale_step"), of.get("offset_step"))
        for plane, of_plane, of in planes_of(codes, grid, named, scheme)
    )
    specs: Any = lookup_specs(scheme, columns, device_of(grid.device))
    programs = (triton.cdiv(count, LOOKUP.rows), triton.cdiv(columns, panel_of(scheme)))
    with torch.cuda.device_of(output):
        look_up[programs](
            tokens.contiguous(),
            planes,
            named.get(MATRIX_SCALE),
            named.get(CHOICE),
            output,
            count,
            rows,
            SPECS=specs,
            **lookup_options(),
        )
    return output


def lookup_specs(scheme: Scheme, columns: int, device: Device) -> tuple[tuple[Spec, ...], ...]:
    """For each plane a constant for every number that a code is the sum of."""
    return tuple(
        tuple(
            spec_of(columns, "bf16", scheme, LOOKUP, device, precise=True, part=part, plane=plane)
            for part in range(parts_of(scheme, precise=True))
        )
        for plane in range(scheme.family.planes)
    )


def lookup_options() -> dict[str, Any]:
    """Options of the compiler: products and sums are rounded apart, and the assertion is one."""
    checked = {"debug": True, "sanitize_overflow": False}
    return {"num_warps": LOOKUP.warps, "num_stages": 1, "enable_fp_fusion": False, **checked}
