import pytest
import torch
from torch import Tensor

from bitplan.compress import render
from bitplan.formats import Packed
from bitplan.kernels.integer import reference, torch_packed
from bitplan.runtimes import unfit
from bitplan.schema import Scheme
from guarded import only_on_linux, said_apart

# RMS(error) / RMS(product in float64 with the weight decoded in float32): measured, and doubled.
TOLERANCE = {
    torch.float32: 1e-6,
    torch.bfloat16: 4e-3,
    torch.float16: 6e-4,
    torch.float64: 1e-6,
}
CASES = [
    ("int4g32", 16, 32),
    ("int4g32", 48, 96),
    ("int4g64", 80, 192),
    ("int4g128", 32, 384),
    ("int4g64", 16, 1088),
    ("int8s", 16, 16),
    ("int8s", 48, 80),
    ("int8s", 80, 48),
    ("int8s", 16, 1088),
]
TOKENS = [(), (1,), (3,), (7,), (2, 5), (33,), (0,), (2, 0)]


def packed(name: str, rows: int, columns: int, size: float = 0.05) -> Packed:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * size
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


def product(inputs: Tensor, weight: Packed) -> Tensor:
    return inputs.double() @ weight.decode().double().t()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("name", "rows", "columns"), CASES)
def test_the_product_is_the_references(name, rows, columns, dtype):
    weight = packed(name, rows, columns)
    assert unfit(weight.scheme, rows, columns) is None
    arranged = torch_packed.arrange(weight.tensors, weight.scheme, columns)
    for tokens in TOKENS:
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(*tokens, columns, generator=generator).to(dtype)
        for multiply, tensors in (
            (torch_packed.linear, arranged),
            (reference.linear, weight.tensors),
        ):
            output = multiply(inputs, tensors, weight.scheme)
            assert output.dtype == dtype
            assert output.shape == (*tokens, rows)
            if output.numel():
                error = relative_error(output.double(), product(inputs, weight))
                assert error < TOLERANCE[dtype], (multiply, tokens)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ["int4g32", "int8s"])
def test_inputs_need_not_be_contiguous(name, dtype):
    weight = packed(name, 48, 96)
    arranged = torch_packed.arrange(weight.tensors, weight.scheme, 96)
    inputs = torch.randn(96, 10, generator=torch.Generator().manual_seed(1)).to(dtype)
    for view in (inputs.t(), inputs.t()[::3], inputs.t()[:, None].expand(-1, 4, -1)):
        output = torch_packed.linear(view, arranged, weight.scheme)
        assert torch.equal(output, torch_packed.linear(view.contiguous(), arranged, weight.scheme))


@pytest.mark.parametrize("size", [1e-7, 1e-3, 1e3])
@pytest.mark.parametrize("name", ["int4g32", "int8s"])
def test_scales_that_float16_cannot_hold(name, size):
    weight = packed(name, 48, 96, size)
    arranged = torch_packed.arrange(weight.tensors, weight.scheme, 96)
    inputs = (torch.randn(5, 96, generator=torch.Generator().manual_seed(1)) / size).half()
    inputs = inputs.clamp(-(2.0**15), 2.0**15)
    output = torch_packed.linear(inputs, arranged, weight.scheme)
    assert relative_error(output.double(), product(inputs, weight)) < 1e-3


@pytest.mark.parametrize(("name", "rows", "columns"), [*CASES, ("int4g32", 32, 1056)])
def test_restoring_gives_the_canonical_tensors_exactly(name, rows, columns):
    weight = packed(name, rows, columns)
    before = {key: tensor.clone() for key, tensor in weight.tensors.items()}
    arranged = torch_packed.arrange(weight.tensors, weight.scheme, columns)
    assert sum(tensor.nbytes for tensor in arranged.values()) == weight.nbytes
    restored = torch_packed.restore(arranged, weight.scheme, columns)
    assert restored.keys() == before.keys()
    for key, tensor in before.items():
        assert restored[key].dtype == tensor.dtype
        assert restored[key].is_contiguous()
        assert torch.equal(restored[key], tensor)
        assert torch.equal(weight.tensors[key], tensor)


@pytest.mark.parametrize("name", ["int4g32", "int8s"])
def test_restoring_gives_every_code_at_every_place(name):
    scheme = Scheme.parse(name)
    codes = torch.arange(16 * 64).reshape(16, 64).remainder(2**scheme.bits).to(torch.uint8)
    groups = 2 if scheme.group_size else 1
    scale = torch.logspace(-30, 30, 16 * groups).reshape(16, groups)
    for turn in range(16):
        weight = Packed.encode(scheme, codes.roll(turn, 0), scale, -scale)
        arranged = torch_packed.arrange(weight.tensors, scheme, 64)
        restored = torch_packed.restore(arranged, scheme, 64)
        assert all(torch.equal(restored[key], weight.tensors[key]) for key in restored)


GUARDED = """
import itertools, torch
from guarded import guarded
from bitplan.kernels.integer import torch_packed
from bitplan.formats import Packed
from bitplan.runtimes import unfit
from bitplan.schema import Scheme

sides = (1, 2, 5, 8, 15, 16, 17, 20, 24, 31, 32, 40, 48, 63, 64, 80, 96, 112, 160)
tried = 0
for name, rows, columns in itertools.product(("int4g32", "int4g64", "int8s"), sides, sides):
    scheme = Scheme.parse(name)
    if unfit(scheme, rows, columns) is None:
        groups = columns // (scheme.group_size or columns)
        scale = torch.ones(rows, groups)
        codes = torch.zeros(rows, columns, dtype=torch.uint8)
        packed = Packed.encode(scheme, codes, scale, scale)
        arranged = torch_packed.arrange(packed.tensors, scheme, columns)
        for dtype in (torch.float32, torch.bfloat16):
            grid = guarded(arranged["grid"].to(dtype))
            held = {"codes": guarded(arranged["codes"]), "grid": grid}
            for tokens in (1, 2, 3, 5, 8):
                torch_packed.linear(guarded(torch.ones(tokens, columns, dtype=dtype)), held, scheme)
                tried += 1
print(tried)
"""


@only_on_linux
def test_no_size_that_fits_is_read_past_its_end():
    assert int(said_apart(GUARDED)) > 500
