"""Compiled products with ternary codes, five to a byte: what other codebooks have not."""

import pytest
import torch

from bitplan.compress import render
from bitplan.formats import Packed, base3
from bitplan.kernels.codebook import even
from bitplan.kernels.native import job as fields
from bitplan.kernels.native import trit_product, trit_rows, weight
from bitplan.schema import Scheme

# RMS(error) / RMS(expected): measured, and doubled.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 6e-4}
FEW = weight.FEW_OF_TERNARY
SCHEMES = {"row": Scheme.parse("ternary"), "g16": Scheme.parse("ternaryg16")}
# Columns of whole bytes and not, of a byte that groups share, and of less than one.
SHAPES = [(1, 1), (3, 4), (64, 80), (65, 79), (130, 161)]


def packed(scheme: Scheme, rows: int, columns: int) -> Packed:
    dense = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    return render(dense, [scheme], quantizer="rtn")[scheme]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_few_vectors_many_and_strided_ones(shape, scheme, dtype):
    rows, columns = shape
    canonical = packed(scheme, rows, columns)
    held = even.arrange(canonical.tensors, scheme, columns)
    dense = canonical.decode().double()
    for count in (1, 2, FEW, FEW + 1, 16):
        inputs = torch.randn(count, 2 * columns, generator=torch.Generator().manual_seed(1))
        inputs = inputs.to(dtype)[:, ::2]
        found = even.linear(inputs, held, scheme)
        assert found.dtype == dtype
        expected = inputs.double() @ dense.t()
        error = (found.double() - expected).square().mean().sqrt()
        assert error <= TOLERANCE[dtype] * expected.square().mean().sqrt()


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_way_back_is_the_decoded_weights(shape, scheme):
    rows, columns = shape
    canonical = packed(scheme, rows, columns)
    held = even.arrange(canonical.tensors, scheme, columns)
    gradient = torch.randn(5, rows, generator=torch.Generator().manual_seed(1))
    found = even.linear_back(gradient, held, scheme, columns)
    torch.testing.assert_close(found, gradient @ canonical.decode(), rtol=1e-5, atol=1e-5)


def test_every_number_is_written_and_no_more():
    scheme, columns, rows = Scheme.parse("ternaryg16"), 33, 70
    held = even.arrange(packed(scheme, rows, columns).tensors, scheme, columns)
    dense = packed(scheme, rows, columns).decode()
    inputs = torch.randn(3, columns)
    numbers = torch.tensor([69, 0, 64])
    for function, source, width, expected in [
        (trit_product.product(), inputs, rows, inputs @ dense.t()),
        (trit_rows.chosen(), numbers, columns, dense[numbers]),
    ]:
        output = torch.full((5, width), float("nan"))
        job, _ = weight._job(held, columns, 0, 16, None, False)
        job[fields.INPUTS], job[fields.COUNT] = source.data_ptr(), 3
        job[fields.OUTPUT] = output[1:].data_ptr()
        fields.run(function, job, 1)
        torch.testing.assert_close(output[1:4], expected, rtol=1e-5, atol=1e-5)
        assert output[[0, 4]].isnan().all()


def test_every_byte_means_what_base_3_says():
    columns, scheme = 5, Scheme.parse("ternary")
    every = torch.arange(243, dtype=torch.uint8)[:, None]
    tensors = {"codes": every, "scale": torch.ones(243, 1, dtype=torch.bfloat16)}
    held = even.arrange(tensors, scheme, columns)
    expected = base3.unpack(every, columns).float() - 1
    found = even.lookup(torch.arange(243), held, scheme, columns, torch.float32)
    assert torch.equal(found, expected)
    assert torch.equal(even.linear(torch.eye(columns), held, scheme), expected.t())
    back = even.linear_back(torch.eye(243), held, scheme, columns)
    assert torch.equal(back, expected)


def test_codes_that_pad_a_row_survive_and_are_not_multiplied():
    # 7 columns: three codes of each row's second byte belong to none, and are 2 here.
    scheme, columns = Scheme.parse("ternary"), 7
    digits = torch.randint(0, 3, (70, 10), dtype=torch.uint8)
    digits[:, columns:] = 2
    tensors = {"codes": base3.pack(digits), "scale": torch.ones(70, 1, dtype=torch.bfloat16)}
    held = even.arrange(tensors, scheme, columns)
    assert torch.equal(even.restore(held, scheme, columns)["codes"], tensors["codes"])
    inputs = torch.randn(3, columns)
    expected = inputs @ (digits[:, :columns].float() - 1).t()
    torch.testing.assert_close(even.linear(inputs, held, scheme), expected)
