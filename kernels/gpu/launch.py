"""Launching the Triton kernels."""

from functools import cache
from typing import Any

import torch
import triton
from jaxtyping import Float
from torch import Tensor
from triton import knobs

from bitplan.kernels.gpu.matmul import matmul, reduce
from bitplan.kernels.gpu.shapes import (
    DECODE_TOKENS,
    Blocks,
    Device,
    decode_blocks,
    numbers_of,
    prefill_blocks,
)
from bitplan.schema import Scheme

REDUCED_AT_ONCE = 1024
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def multiply(
    inputs: Float[Tensor, "tokens in"], codes: Tensor, grid: Tensor, scheme: Scheme, rows: int
) -> Float[Tensor, "tokens out"]:
    """Product with the transposed weight, in the inputs' dtype."""
    tokens, columns = inputs.shape
    output = inputs.new_empty(tokens, rows)
    if not output.numel():
        return output
    device = device_of(inputs.device)
    dtype = inputs.dtype
    if dtype not in NAMES:
        # Exactly what float32 holds, as three numbers of bfloat16; codes are exact in one.
        inputs, copies = thirds(inputs), 3
    else:
        inputs, copies = inputs.contiguous() if inputs.stride(-1) != 1 else inputs, 1
    if tokens > DECODE_TOKENS and copies == 1:
        blocks = prefill_blocks(rows, columns, tokens, device)
    else:
        blocks = decode_blocks(rows, columns, len(inputs), device)
    if blocks.splits * copies == 1:
        launch(inputs, codes, grid, output, scheme, blocks, device)
        return output
    shape = (blocks.splits, copies, tokens, rows)
    parts = inputs.new_empty(shape, dtype=torch.float32)
    launch(inputs, codes, grid, parts, scheme, blocks, device, precise=copies > 1)
    size = output.numel()
    programs = (triton.cdiv(size, REDUCED_AT_ONCE),)
    block: Any = REDUCED_AT_ONCE
    with torch.cuda.device_of(output):
        reduce[programs](parts, output, size, blocks.splits * copies, BLOCK=block)
    return output


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


def words_of(grid: Tensor) -> Tensor:
    """Pairs of bfloat16 as words, and single ones as they are."""
    return grid if grid.dim() == 2 else grid.view(torch.uint32)


def constants(
    columns: int,
    dtype: str,
    scheme: Scheme,
    blocks: Blocks,
    device: Device,
    *,
    precise: bool = False,
) -> dict[str, Any]:
    """What the kernel is compiled for."""
    numbers = numbers_of(int(scheme.bits), dtype, precise=precise)
    return {
        "COLUMNS": columns,
        "BITS": int(scheme.bits),
        "GROUP": scheme.group_size if scheme.group_size and scheme.group_size < columns else 0,
        "TARGET": numbers.target,
        "CENTRED": numbers.centred,
        "CUDA": device.cuda and not knobs.runtime.interpret,
        "SYMMETRIC": scheme.symmetric,
        "ZERO": numbers.zero,
        "UNIT": numbers.unit,
        "MANY": blocks.many,
        "BLOCK_N": blocks.rows,
        "BLOCK_M": blocks.tokens,
        "STAGES": blocks.stages,
    }


def launch(
    inputs: Tensor,
    codes: Tensor,
    grid: Tensor,
    outputs: Tensor,
    scheme: Scheme,
    blocks: Blocks,
    device: Device,
    *,
    precise: bool = False,
) -> None:
    """Write the products of each split, [splits, tokens, rows]."""
    tokens, columns = inputs.shape
    rows = outputs.shape[-1]
    programs = (triton.cdiv(rows, blocks.rows), blocks.splits, triton.cdiv(tokens, blocks.tokens))
    # Triton launches on the current device.
    with torch.cuda.device_of(inputs):
        matmul[programs](
            inputs,
            codes,
            words_of(grid),
            outputs,
            rows,
            tokens,
            inputs.stride(0),
            blocks.panels,
            **constants(columns, NAMES[inputs.dtype], scheme, blocks, device, precise=precise),
            **options(blocks),
        )


def options(blocks: Blocks) -> dict[str, Any]:
    """Options of the compiler."""
    limit: dict[str, Any] = {"maxnreg": blocks.registers} if blocks.registers else {}
    stages, warps = blocks.stages, blocks.warps
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True, **limit}
