"""Products of bytes with integer codes, beside the weight decoded and multiplied in float64."""

import numpy as np
import pytest
import torch
from numba import njit
from torch import Tensor

from bitplan.compress import render
from bitplan.errors import InputError
from bitplan.formats import Packed, pack
from bitplan.kernels.integer import cpu_dot, reference
from bitplan.kernels.native import arrange, dot, tiles
from bitplan.kernels.native import weight as native
from bitplan.kernels.native.vectors import ROWS
from bitplan.schema import Scheme

pytestmark = pytest.mark.skipif(
    dot.instructions() is None, reason="the processor has no products of bytes"
)

# RMS(error) / RMS(product in float64 with the weight decoded in float32): measured, and doubled.
TOLERANCE = {
    torch.float32: 1e-6,
    torch.bfloat16: 4e-3,
    torch.float16: 6e-4,
    torch.float64: 1e-6,
}
WIDTHS = [f"int{bits}" for bits in (2, 3, 4, 5, 6, 7, 8)]
GRIDS = ["", "s", "g32s", "g64", "g128", "g32d", "g64sd"]
SHAPES = [(64, 64), (16, 32), (144, 96), (208, 224)]
TOKENS = [(), (1,), (3,), (2, 5), (33,), (0,), (2, 0)]


def packed(name: str, rows: int, columns: int, size: float = 0.05) -> Packed:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * size
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


def arranged(weight: Packed) -> dict[str, Tensor]:
    return cpu_dot.arrange(weight.tensors, weight.scheme, weight.shape[-1])


def product(inputs: Tensor, weight: Packed) -> Tensor:
    return inputs.double() @ weight.decode().double().t()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_product_is_the_references(width, grid, dtype):
    for rows, columns in SHAPES:
        weight = packed(width + grid, rows, columns)
        held = arranged(weight)
        for tokens in TOKENS:
            inputs = random(*tokens, columns).to(dtype)
            output = cpu_dot.linear(inputs, held, weight.scheme)
            assert output.dtype == dtype
            assert output.shape == (*tokens, rows)
            if output.numel():
                error = relative_error(output.double(), product(inputs, weight))
                assert error < TOLERANCE[dtype], (rows, columns, tokens)


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
    both = [cpu_dot.linear(x.to(dtype), held, weight.scheme).double() for x in (inputs, alone)]
    expected = product(inputs.to(dtype), weight)
    assert relative_error(both[0], expected) < TOLERANCE[dtype]
    others = inputs.clone()
    others[0, 32:64] = 0
    found = cpu_dot.linear(others.to(dtype), held, weight.scheme).double()
    assert relative_error(found, product(others.to(dtype), weight)) < TOLERANCE[dtype]


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width_is_restored(bits):
    generator = torch.Generator().manual_seed(bits)
    for rows, columns in SHAPES:
        codes = torch.randint(0, 2**bits, (rows, columns), generator=generator, dtype=torch.uint8)
        canonical = pack(codes, bits)
        moved = arrange.arrange_codes(canonical, bits, quads=True)
        assert moved.nbytes == canonical.nbytes
        restored = arrange.restore_codes(moved, rows, columns, bits, quads=True)
        assert torch.equal(restored, canonical)


@pytest.mark.parametrize("name", ["int3g64", "int8s", "int5g32d"])
def test_restoring_gives_the_canonical_tensors_exactly(name):
    for rows, columns in SHAPES:
        weight = packed(name, rows, columns)
        held = arranged(weight)
        assert sum(tensor.nbytes for tensor in held.values()) == weight.nbytes
        restored = cpu_dot.restore(held, weight.scheme, columns)
        assert restored.keys() == weight.tensors.keys()
        for key, tensor in weight.tensors.items():
            assert torch.equal(restored[key], tensor)


@pytest.mark.parametrize("name", ["int2g32", "int3", "int4g128s", "int8s", "int6g64d", "int7"])
def test_rows_are_those_of_the_reference(name):
    for rows, columns in SHAPES:
        weight = packed(name, rows, columns)
        held = arranged(weight)
        for tokens in ([[0, rows - 1, 5], [5, 5, 1]], [], 6, [[]]):
            numbers = torch.tensor(tokens, dtype=torch.int64)
            found = cpu_dot.lookup(numbers, held, weight.scheme, columns, torch.bfloat16)
            expected = reference.lookup(
                numbers, weight.tensors, weight.scheme, columns, torch.bfloat16
            )
            assert torch.equal(found, expected)
        with pytest.raises(IndexError, match=f"row {rows} .* of {rows} rows"):
            cpu_dot.lookup(torch.tensor([rows]), held, weight.scheme, columns, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["int2g32", "int3", "int4g128s", "int5", "int8s", "int6g64d"])
def test_tiles_are_the_rows_of_the_reference(name, dtype, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_NUMBERS", 1)
    for rows, columns in SHAPES:
        weight = packed(name, rows, columns)
        bits, group = int(weight.scheme.bits), weight.scheme.group_size
        held = arranged(weight)
        job, _ = native._job(held, columns, bits, group, None, None, True)
        expected, seen = weight.decode().to(dtype), 0
        for some, tile in tiles.tiles(job, columns, rows, dtype):
            assert torch.equal(tile.t(), expected[some])
            seen += tile.shape[1]
        assert seen == rows


@pytest.mark.parametrize("count", [2, 20], ids=["few", "many"])
def test_inputs_need_not_be_contiguous(count):
    weight = packed("int3g32", 48, 96)
    held, inputs = arranged(weight), random(96, count)
    for view in (inputs.t(), inputs.t()[::2], inputs.t()[:, None].expand(-1, 4, -1)):
        output = cpu_dot.linear(view, held, weight.scheme)
        assert torch.equal(output, cpu_dot.linear(view.contiguous(), held, weight.scheme))


@pytest.mark.parametrize("count", [1, 40])
def test_every_output_is_written(count, monkeypatch):
    weight = packed("int5g64", 144, 96)
    held, inputs = arranged(weight), random(count, 96)
    empty = torch.empty

    def spoilt(*args, **keywords):
        made = empty(*args, **keywords)
        return made.fill_(torch.nan if made.is_floating_point() else 0xFF)

    monkeypatch.setattr(torch, "empty", spoilt)
    assert cpu_dot.linear(inputs, held, weight.scheme).isfinite().all()


@pytest.mark.parametrize("count", [1, 16, 35])
def test_threads_change_nothing(count, monkeypatch):
    monkeypatch.setattr(native, "has_bfloat16", lambda: False)
    weight = packed("int3g64", 1040, 512)
    held, inputs = arranged(weight), random(count, 512)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(cpu_dot.linear(inputs, held, weight.scheme))
    finally:
        torch.set_num_threads(before)
    if count > native.FEW and dot.instructions() != "vnni":
        pytest.skip("torch multiplies many, and may round in another order")
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_no_number_stays_none(value, dtype):
    weight = packed("int4g64", 64, 64)
    inputs = torch.ones(1, 64, dtype=dtype)
    inputs[0, 3] = value
    assert not cpu_dot.linear(inputs, arranged(weight), weight.scheme).isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-30])
def test_inputs_of_nothing_or_next_to_it(size, dtype):
    weight = packed("int4g64s", 64, 64)
    inputs = (random(2, 64) * size).to(dtype)
    output = cpu_dot.linear(inputs, arranged(weight), weight.scheme).double()
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
    found = cpu_dot.unfit(Scheme.parse(name), *shape)
    assert found is not None
    assert reason in found
    assert cpu_dot.unfit(Scheme.parse("int4g64"), 64, 64) is None


def test_inputs_elsewhere_are_refused():
    weight = packed("int4g64", 64, 64)
    with pytest.raises(InputError, match="inputs are on meta, but the weight is on the CPU"):
        cpu_dot.linear(torch.zeros(1, 64, device="meta"), arranged(weight), weight.scheme)


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
