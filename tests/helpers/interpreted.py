"""Runs products of cases from standard input by Triton's interpreter; prints a result for each.

A program of its own, for Triton asks whether to interpret when a kernel is defined.
"""

import json
import sys

import torch
from torch import Tensor

from bitplan.formats import Packed
from bitplan.kernels.integer import reference, triton
from bitplan.schema import Scheme


def weight_of(name: str, rows: int, columns: int) -> Packed:
    """A weight of random codes."""
    scheme, generator = Scheme.parse(name), torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2**scheme.bits, (rows, columns), generator=generator)
    groups = -(-columns // (scheme.group_size or columns))
    scale = torch.rand(rows, groups, generator=generator) / 50 + 0.01
    offset = torch.randn(rows, groups, generator=generator) / 20
    return Packed.encode(scheme, codes.to(torch.uint8), scale, offset)


def error(found: Tensor, inputs: Tensor, weight: Packed) -> float:
    """RMS(error) / RMS(product in float64)."""
    expected = inputs.double() @ weight.decode().double().t()
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


def product(name: str, rows: int, columns: int, tokens: list[int], dtype: str, view: str) -> dict:
    """Errors of the kernel and of the reference, and whether a second product is the same."""
    weight = weight_of(name, rows, columns)
    arranged = triton.arrange(weight.tensors, weight.scheme, columns)
    generator = torch.Generator().manual_seed(1)
    kind = getattr(torch, dtype)
    if view == "transposed":
        inputs = torch.randn(columns, *tokens, generator=generator).to(kind).t()
    elif view == "strided":
        inputs = torch.randn(2 * tokens[0], columns + 8, generator=generator).to(kind)
        inputs = inputs[::2, 8:]
    else:
        inputs = torch.randn(*tokens, columns, generator=generator).to(kind)
    # What is allocated and not yet written is NaN.
    torch.use_deterministic_algorithms(True)
    output = triton.linear(inputs, arranged, weight.scheme)
    again = triton.linear(inputs, arranged, weight.scheme) if columns > 1000 else output
    torch.use_deterministic_algorithms(False)
    assert output.dtype == kind
    assert output.shape == (*tokens, rows)
    if not output.numel():
        return {"error": 0.0, "reference": 0.0, "same": True}
    expected = reference.linear(inputs, weight.tensors, weight.scheme)
    return {
        "error": error(output, inputs, weight),
        "reference": error(expected, inputs, weight),
        "same": torch.equal(output, again),
    }


def operator() -> dict:
    """What torch says of the operator, and whether a compiled function has it in one graph."""
    weight = weight_of("int4g64", 40, 96)
    arranged = triton.arrange(weight.tensors, weight.scheme, 96)
    inputs = torch.randn(3, 96, generator=torch.Generator().manual_seed(1))
    arguments = (inputs, arranged["codes"], arranged["grid"], "int4g64")
    checked = torch.library.opcheck(torch.ops.bitplan.integer_linear.default, arguments)

    def layer(x: Tensor) -> Tensor:
        return triton.linear(x * 2, arranged, weight.scheme) + 1

    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(inputs)
        same = torch.equal(compiled, layer(inputs))
    return {"checked": checked, "same": same}


if __name__ == "__main__":
    cases = json.load(sys.stdin)
    sys.stdout.write(json.dumps([operator() if c is None else product(**c) for c in cases]))
