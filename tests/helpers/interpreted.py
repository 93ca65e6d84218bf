"""Products by Triton's interpreter: `interpret` has a program of its own make them.

That program, this file, reads cases from standard input and prints a result for each: for Triton
asks whether to interpret when a kernel is defined.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitplan.formats import Packed, double
from bitplan.formats.codebook import codebook_of
from bitplan.formats.masks import patterns
from bitplan.formats.two_planes import SECOND, units
from bitplan.kernels import arranged_for, reference_of
from bitplan.kernels.gpu import launch
from bitplan.kernels.gpu.grids import all_beside
from bitplan.kernels.gpu.shapes import Device
from bitplan.schema import Scheme

# RMS(error) / RMS(product in float64), measured and doubled: what rounding the output costs, and
# where weights are made in the inputs' dtype, for more than 16 tokens, their rounding too.
FEW = {"bfloat16": 7e-3, "float16": 5e-4, "float32": 1e-6}
MANY = {"bfloat16": 1e-2, "float16": 1e-3, "float32": 1e-6}


def case(
    name: str,
    rows: int,
    columns: int,
    tokens: list[int],
    dtype: str = "bfloat16",
    view: str = "whole",
    cuda: bool = True,
) -> dict:
    """What `product` is asked for."""
    return {
        "name": name,
        "rows": rows,
        "columns": columns,
        "tokens": tokens,
        "dtype": dtype,
        "view": view,
        "cuda": cuda,
    }


def limit_of(case: dict) -> float:
    """The error that a case may have."""
    few = not case["tokens"] or case["tokens"][-1] <= 16
    return (FEW if few else MANY)[case["dtype"]]


def interpret(cases: list) -> list[dict]:
    """The results of cases, or for names alone of operators or `mixture`."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_DEFAULT_FP_FUSION": "1"}
    paths = [str(Path(__file__).parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def weight_of(name: str, rows: int, columns: int, seed: int = 0) -> Packed:
    """A weight of random codes, of those that stand for a number."""
    scheme, generator = Scheme.parse(name), torch.Generator().manual_seed(seed)
    if scheme.family.planes > 1:
        count = len(units(scheme.format)[0])
    else:
        count = 2 ** int(scheme.bits) if scheme.is_integer else len(codebook_of(scheme).table)
    codes = torch.randint(0, count, (rows, columns), generator=generator)
    groups = -(-columns // (scheme.group_size or columns))
    scale = torch.rand(rows, groups, generator=generator) / 50 + 0.01
    steps = {}
    if scheme.double:
        blocks = torch.arange(-(-groups // double.SHARED))
        step = (1 + torch.arange(rows) % 2)[:, None] * (1 + blocks / 2) * 2.0**-13
        steps = {"scale": step, "offset": 16 * step, SECOND: step}
    mask = mask_of(scheme, rows, columns, generator)
    if scheme.is_integer:
        offset = torch.randn(rows, groups, generator=generator) / 20
        of = {"steps": steps, "mask": mask}
        return Packed.encode(scheme, codes.to(torch.uint8), scale, offset, **of)
    if scheme.family.planes > 1:
        second = torch.rand(rows, groups, generator=generator) / 100
        return Packed.encode(scheme, codes.to(torch.uint8), scale, steps=steps, second=second)
    if scheme.family.choices > 1:
        choice = torch.randint(0, scheme.family.choices, (rows, groups), generator=generator)
        of = {"steps": steps, "choice": choice.to(torch.uint8), "mask": mask}
        return Packed.encode(scheme, codes.to(torch.uint8), scale, **of)
    codes[~codebook_of(scheme).table[codes].isfinite()] = 0
    matrix_scale = torch.tensor([[0.0625 * (1 + seed) + 2**-12]])
    of = {"matrix_scale": matrix_scale, "steps": steps, "mask": mask}
    return Packed.encode(scheme, codes.to(torch.uint8), scale, **of)


def mask_of(scheme: Scheme, rows: int, columns: int, generator: torch.Generator) -> Tensor | None:
    """Any mask of a scheme's sparsity."""
    if scheme.sparsity is None:
        return None
    if scheme.sparsity.block is not None:
        every = patterns(scheme.sparsity)
        shape = (rows, columns // scheme.sparsity.block)
        return every[torch.randint(0, len(every), shape, generator=generator)].flatten(1)
    order = torch.rand(rows, columns, generator=generator).argsort(dim=1)
    kept = order[:, : scheme.sparsity.columns(columns)]
    return torch.zeros(rows, columns, dtype=torch.bool).scatter_(1, kept, True)


def check_product(case: dict, found: dict) -> None:
    """Assert that the result of a case is the reference's, as far as rounding lets it."""
    # NaN is not below anything: what was never written would show.
    assert found["error"] <= limit_of(case)
    # The interpreter cuts bfloat16 off where a device rounds: that doubles the error.
    assert found["error"] <= 3 * found["reference"] + 1e-6
    assert found["same"]


def check_restoring(name: str, columns: int, *, padding: int = 0) -> None:
    """Assert that canonical tensors come back exactly, from as many bytes and the padding."""
    weight = weight_of(name, 37, columns)
    triton = arranged_for(weight.scheme, "triton")
    arranged = triton.arrange(weight.tensors, weight.scheme, columns)
    assert sum(tensor.nbytes for tensor in arranged.values()) == weight.nbytes + padding
    assert all(tensor.is_contiguous() for tensor in arranged.values())
    restored = triton.restore(arranged, weight.scheme, columns)
    assert restored.keys() == weight.tensors.keys()
    for key, tensor in weight.tensors.items():
        assert restored[key].dtype == tensor.dtype
        assert restored[key].is_contiguous()
        assert torch.equal(restored[key], tensor)


def check_gradients(name: str) -> None:
    """Assert that the gradients at the inputs are the reference's."""
    weight = weight_of(name, 40, 96)
    triton = arranged_for(weight.scheme, "triton")
    inputs = torch.randn(3, 96, generator=torch.Generator().manual_seed(1))
    found = []
    for multiply, tensors in (
        (triton.linear, triton.arrange(weight.tensors, weight.scheme, 96)),
        (reference_of(weight.scheme).linear, weight.tensors),
    ):
        leaf = inputs.clone().requires_grad_()
        multiply(leaf, tensors, weight.scheme).square().sum().backward()
        found.append(leaf.grad)
    assert torch.equal(*found)


def check_on_device(name: str, tokens: int, dtype: str) -> None:
    """Assert that a device multiplies as exactly as it may; skip where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA or ROCm device")
    weight = weight_of(name, 1000, 1632)
    triton = arranged_for(weight.scheme, "triton")
    arranged = triton.arrange(weight.tensors, weight.scheme, 1632)
    inputs = torch.randn(tokens, 1632, generator=torch.Generator().manual_seed(1))
    inputs = inputs.to(getattr(torch, dtype))
    held = {key: tensor.cuda() for key, tensor in arranged.items()}
    output = triton.linear(inputs.cuda(), held, weight.scheme).cpu()
    assert error(output, inputs, weight) < (FEW if tokens <= 16 else MANY)[dtype]


def error(found: Tensor, inputs: Tensor, weight: Packed) -> float:
    """RMS(error) / RMS(product in float64)."""
    expected = inputs.double() @ weight.decode().double().t()
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


def product(
    name: str, rows: int, columns: int, tokens: list[int], dtype: str, view: str, cuda: bool
) -> dict:
    """Errors of the kernel and of the reference, and whether a second product is the same."""
    weight = weight_of(name, rows, columns)
    triton, reference = arranged_for(weight.scheme, "triton"), reference_of(weight.scheme)
    launch.device_of = lambda device: Device(multiprocessors=2, cuda=cuda)
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


def operator(name: str) -> dict:
    """What torch says of the operators, and whether a compiled function has them in one graph."""
    weight = weight_of(name, 40, 96)
    triton = arranged_for(weight.scheme, "triton")
    arranged = triton.arrange(weight.tensors, weight.scheme, 96)
    inputs = torch.randn(3, 96, generator=torch.Generator().manual_seed(1))
    beside = [arranged[key] for key in all_beside(weight.scheme)]
    arguments = (inputs, arranged["codes"], arranged["grid"], beside, name)
    checked = torch.library.opcheck(torch.ops.bitplan.packed_linear.default, arguments)

    def layer(x: Tensor) -> Tensor:
        return triton.linear(x * 2, arranged, weight.scheme) + 1

    torch.compiler.reset()  # or what differs from the scheme before would be a variable
    if weight.scheme.sparsity:  # which is only multiplied
        with torch.no_grad():
            compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(inputs)
            same = torch.equal(compiled, layer(inputs))
        return {"checked": [*checked.values()], "same": same}
    places = torch.tensor([[3, 39], [0, 3]])
    of_rows = (places, *arguments[1:], 96, torch.bfloat16)
    checked_rows = torch.library.opcheck(torch.ops.bitplan.packed_rows.default, of_rows)
    from interpreted_experts import experts_of  # which imports this file

    _, stack = experts_of(name, 40, 96, 2)
    ends = torch.tensor([1, 3], dtype=torch.int32)
    beside = [stack[key] for key in all_beside(weight.scheme)]
    of_experts = (inputs, ends, [], [stack["codes"]], [stack["grid"]], beside, name)
    checked_experts = torch.library.opcheck(torch.ops.bitplan.packed_experts.default, of_experts)

    def rows(tokens: Tensor) -> Tensor:
        return triton.lookup(tokens + 0, arranged, weight.scheme, 96, torch.float32) + 1

    def experts(x: Tensor) -> Tensor:
        return triton.grouped(x * 2, ends, stack, weight.scheme) + 1

    same = True
    with torch.no_grad():
        for function, given in ((layer, inputs), (rows, places), (experts, inputs)):
            compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(given)
            same = same and torch.equal(compiled, function(given))
    checks = (checked, checked_rows, checked_experts)
    return {"checked": [one for check in checks for one in check.values()], "same": same}


if __name__ == "__main__":
    # What imports this file.
    from interpreted_experts import MIXTURE, STACKS, grouped, mixture, operator_of_stacks
    from interpreted_rows import rows_at
    from interpreted_several import SEVERAL, operator_of_several, products
    from interpreted_siblings import SCENARIOS
    from interpreted_trials import TRIALS, with_trials

    found = []
    for asked in json.load(sys.stdin):
        if isinstance(asked, str) and asked.startswith(MIXTURE):
            found.append(mixture(asked.removeprefix(MIXTURE)))
        elif isinstance(asked, str) and asked.startswith(STACKS):
            found.append(operator_of_stacks(asked.removeprefix(STACKS)))
        elif isinstance(asked, str) and asked.startswith(SEVERAL):
            found.append(operator_of_several(asked.removeprefix(SEVERAL)))
        elif isinstance(asked, str) and asked.startswith(TRIALS):
            found.append(with_trials(asked.removeprefix(TRIALS)))
        elif isinstance(asked, str) and asked in SCENARIOS:
            found.append(SCENARIOS[asked]())
        elif isinstance(asked, str):
            found.append(operator(asked))
        else:
            kinds = {"places": rows_at, "counts": grouped, "tokens": product, "several": products}
            [run] = [kind for key, kind in kinds.items() if key in asked]
            found.append(run(**asked))
    sys.stdout.write(json.dumps(found))
