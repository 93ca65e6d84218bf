"""Products of bytes: what they have of their own; `test_cpu` has what all loops have in common."""

import numpy as np
import pytest
import torch
from numba import njit
from torch import Tensor

from bitplan.compress import render
from bitplan.formats import Packed, pack
from bitplan.kernels.integer import cpu
from bitplan.kernels.native import arrange, dot, tiles
from bitplan.kernels.native import weight as native
from bitplan.kernels.native.vectors import ROWS
from bitplan.schema import Scheme

pytestmark = pytest.mark.skipif(
    dot.instructions() is None, reason="the processor has no products of bytes"
)

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
SHAPES = [(64, 64), (16, 32), (144, 96), (208, 224)]


def packed(name: str, rows: int, columns: int, size: float = 0.05) -> Packed:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * size
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


def arranged(weight: Packed) -> dict[str, Tensor]:
    return cpu.DOT.arrange(weight.tensors, weight.scheme, weight.shape[-1])


def product(inputs: Tensor, weight: Packed) -> Tensor:
    return inputs.double() @ weight.decode().double().t()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("largest", [1e3, 1e30])
def test_a_huge_input_takes_nothing_from_those_beside_other_columns(largest, dtype):
    """Steps are of 32 columns: an outlier costs its own span, and there no more than its share."""
    weight = packed("int4g32", 64, 128)
    inputs = random(1, 128)
    inputs[0, 40] = largest
    alone = torch.zeros_like(inputs)
    alone[0, 32:64] = inputs[0, 32:64]
    held = arranged(weight)
    both = [cpu.DOT.linear(x.to(dtype), held, weight.scheme).double() for x in (inputs, alone)]
    expected = product(inputs.to(dtype), weight)
    assert relative_error(both[0], expected) < TOLERANCE[dtype]
    others = inputs.clone()
    others[0, 32:64] = 0
    found = cpu.DOT.linear(others.to(dtype), held, weight.scheme).double()
    assert relative_error(found, product(others.to(dtype), weight)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["int2g32", "int3", "int4g128s", "int5", "int8s", "int6g64d"])
def test_tiles_are_the_rows_of_the_reference(name, dtype, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_BYTES", 1)
    for rows, columns in SHAPES:
        weight = packed(name, rows, columns)
        bits, group = int(weight.scheme.bits), weight.scheme.group_size
        held = arranged(weight)
        job, _ = native._job(held, columns, bits, group, None, True)
        expected, seen = weight.decode().to(dtype), 0
        for some, tile in tiles.tiles(job, columns, rows, dtype):
            assert torch.equal(tile.t(), expected[some])
            seen += tile.shape[1]
        assert seen == rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-30])
def test_inputs_of_nothing_or_next_to_it(size, dtype):
    weight = packed("int4g64s", 64, 64)
    inputs = (random(2, 64) * size).to(dtype)
    output = cpu.DOT.linear(inputs, arranged(weight), weight.scheme).double()
    assert (output - product(inputs, weight)).abs().max() <= max(4e-3 * size, 1e-38)


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("int4g16", (64, 64), "groups in 32s"),
        ("int4g64", (64, 72), "columns in 32s"),
        ("int4g64", (63, 64), "rows in 16s"),
    ],
)
def test_what_does_not_fit(name, shape, reason):
    found = cpu.unfit(Scheme.parse(name), *shape)
    assert found is not None
    assert reason in found
    assert cpu.unfit(Scheme.parse("int4g64"), 64, 64) is None


@pytest.mark.parametrize("instructions", ["avx2", "vnni"])
@pytest.mark.parametrize(("digits", "vectors"), [(2, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("bits", range(1, 9))
def test_a_span_by_each_kind_of_instruction(bits, digits, vectors, instructions, monkeypatch):
    """Codes and digits as large as they get: nothing overflows."""
    if instructions == "vnni" and dot.instructions() != "vnni":
        pytest.skip("the processor has no VNNI")
    monkeypatch.setattr(dot, "instructions", lambda: instructions)

    @njit
    def add(words, scale, inputs, starts, steps, total):
        dot.add_span(
            words,
            4 * ROWS,
            scale,
            inputs,
            32 * digits,
            starts,
            4 * digits,
            steps,
            4,
            total,
            4 * ROWS,
            bits,
            digits,
            vectors,
        )

    generator = np.random.default_rng(bits)
    codes = generator.integers(0, 2**bits, (ROWS, 32), dtype=np.uint8)
    codes[0], codes[1] = 2**bits - 1, 0
    inputs = generator.integers(-64, 65, (vectors, digits, 32), dtype=np.int8)
    inputs[:, 0] = generator.choice([-127, 127], (vectors, 32))
    inputs[:, 0, :4] = 127
    words = arrange.arrange_codes(pack(torch.from_numpy(codes), bits), bits, quads=True).numpy()
    starts = generator.integers(-9, 9, (vectors, digits), dtype=np.int32)
    scale, steps = (generator.random(n, dtype=np.float32) for n in (ROWS, vectors))
    total = np.full((vectors, ROWS), 3, np.float32)
    add(*(array.ctypes.data for array in (words, scale, inputs, starts, steps, total)))
    worth = 128.0 ** np.arange(digits - 1, -1, -1)
    sums = np.einsum("rc,vdc->vdr", codes.astype(np.int64), inputs.astype(np.int64))
    expected = 3 + steps[:, None] * scale * ((sums + starts[..., None]) * worth[:, None]).sum(1)
    np.testing.assert_allclose(total, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [1, 5, 16])
@pytest.mark.parametrize("name", ["int2g32", "int3g64s", "int4g128", "int8s"])
def test_inputs_of_8_bits_are_rounded_and_the_rest_is_exact(name, count, dtype):
    weight = packed(name, 64, 256)
    inputs = torch.randn(count, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
    inputs[0, 32:64] = 0
    spans = inputs.double().unflatten(1, (-1, 32))
    step = spans.abs().amax(-1, keepdim=True) / 127
    rounded = ((spans / step).nan_to_num().round() * step).flatten(1)
    expected = product(rounded, weight)
    if "offset" in weight.tensors:  # multiplies the sum of a group's inputs, which is exact
        offset = weight.tensors["offset"].double()
        offset = offset.repeat_interleave(256 // offset.shape[1], 1)
        expected += (inputs.double() - rounded) @ offset.t()
    found = cpu.DOT8.linear(inputs, arranged(weight), weight.scheme)
    assert found.dtype == dtype
    # A quotient that is half a step is rounded either way; the output is in the inputs' dtype.
    assert relative_error(found.double(), expected) < (1e-3 if dtype == torch.float32 else 5e-3)
    assert 1e-3 < relative_error(found.double(), product(inputs, weight)) < 2e-2
