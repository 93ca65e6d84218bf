from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import isfinite

import pytest
import torch

from bitplan.formats.codebook import codebook_of
from bitplan.kernels.gpu.layout import flip_of
from bitplan.kernels.gpu.numbers import DTYPES, Numbers, numbers_of, parts_of
from bitplan.schema import Scheme

INTEGERS = [f"int{bits}s" for bits in range(2, 9)]
FLOATS = ["fp8", "fp8e5m2", "fp6", "fp6e3m2", "fp4"]
OTHERS = ["sign", *FLOATS, "mxfp8", "mxfp6", "mxfp4", "nvfp4", *(f"bfp{n}" for n in range(3, 9))]


def number_of(code: int, bits: int, numbers: Numbers) -> Fraction:
    """What the kernels make of a code's bits, put where `numbers` says."""
    dtype = DTYPES[numbers.dtype]
    if numbers.kind == "centred":
        return Fraction(float(torch.tensor(code - 2 ** (bits - 1)).to(dtype)))
    if numbers.kind == "mantissa":
        pattern = int(torch.ones(1, dtype=dtype).view(torch.int16)) | code << numbers.target
    elif numbers.kind == "float":
        sign, rest = divmod(code, 2 ** (bits - 1))
        pattern = sign << 15 | rest << numbers.target
    else:
        pattern = numbers.table[code]
    signed = pattern - 65536 if pattern >= 32768 else pattern
    number = torch.tensor(signed, dtype=torch.int16).view(dtype)
    return Fraction(float(number)) * 2**numbers.raised


def values_of(scheme: Scheme) -> list[float]:
    if scheme.is_integer:
        half = 2 ** (int(scheme.bits) - 1)
        return [float(code - half) for code in range(2 * half)]
    return codebook_of(scheme).table.tolist()


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*INTEGERS, *OTHERS])
def test_every_code_becomes_its_number_exactly(name, dtype, many):
    scheme = Scheme.parse(name)
    for precise, cuda in product((False, True), repeat=2):
        assert parts_of(scheme, precise=precise) == 1
        numbers = numbers_of(scheme, dtype, precise=precise, many=many, cuda=cuda)
        kind = DTYPES[numbers.dtype]
        for code, value in enumerate(values_of(scheme)):
            if not isfinite(value):
                continue  # stands for no number
            number = number_of(code ^ flip_of(scheme), int(scheme.bits), numbers)
            assert (number - Fraction(numbers.zero)) * Fraction(numbers.unit) == Fraction(value)
            assert float(torch.tensor(float(number), dtype=kind)) == number
        for constant in (-numbers.zero, 1 / numbers.unit, 2.0**numbers.raised):
            assert float(torch.tensor(constant, dtype=kind)) == constant


@pytest.mark.parametrize("name", ["nf4", "nf3"])
def test_the_numbers_of_a_table_are_the_nearest_and_add_up(name):
    scheme = Scheme.parse(name)
    values = torch.tensor(values_of(scheme))
    for dtype, kind in DTYPES.items():
        numbers = numbers_of(scheme, dtype)
        found = [float(number_of(code, 4, numbers)) for code in range(len(values))]
        assert torch.equal(torch.tensor(found), values.to(kind).float())
        assert numbers_of(scheme, dtype, many=True).dtype == "fp16"
    parts = [
        numbers_of(scheme, "bf16", precise=True, part=part)
        for part in range(parts_of(scheme, precise=True))
    ]
    total = [sum(number_of(code, 4, part) for part in parts) for code in range(len(values))]
    assert total == [Fraction(value) for value in values.tolist()]


@pytest.mark.parametrize("name", ["bitmod4", "bitmod3"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_choice_changes_one_entry_of_a_table_and_all_are_exact(name, dtype):
    scheme = Scheme.parse(name)
    assert parts_of(scheme, precise=True) == 1
    numbers = numbers_of(scheme, dtype)
    for choice, entry in enumerate(numbers.choices):
        table = (*numbers.table[: numbers.chosen], entry, *numbers.table[numbers.chosen + 1 :])
        of_choice = replace(numbers, table=table)
        found = [float(number_of(code, int(scheme.bits), of_choice)) for code in range(len(table))]
        assert found == codebook_of(scheme, choice).table.tolist()
        low, high = numbers.low_choices >> 8 * choice, numbers.high_choices >> 8 * choice
        assert (low & 0xFF) | (high & 0xFF) << 8 == entry


@pytest.mark.parametrize("pattern", ["2:4", "50%"])
@pytest.mark.parametrize("name", [*INTEGERS, *OTHERS, "nf4", "nf3", "bitmod4", "bitmod3"])
def test_a_weight_that_is_left_out_has_the_code_of_zero_where_there_is_one(name, pattern):
    scheme = Scheme.parse(f"{name}+{pattern}")
    for dtype, many, precise in product(DTYPES, (False, True), (False, True)):
        for part in range(parts_of(scheme, precise=precise)):
            numbers = numbers_of(scheme, dtype, many=many, precise=precise, part=part)
            assert numbers.absent < 2**scheme.bits
            nothing = number_of(numbers.absent, int(scheme.bits), numbers)
            assert nothing == Fraction(numbers.nothing)
            assert nothing == Fraction(numbers.zero) or name == "sign"
            pattern_of_less = torch.tensor(numbers.less).to(torch.int16).view(DTYPES[numbers.dtype])
            assert pattern_of_less.item() == -nothing


def test_a_plane_of_bits_is_of_0_and_1():
    for dtype, precise in product(DTYPES, (False, True)):
        numbers = numbers_of(Scheme.parse("binary2"), dtype, precise=precise)
        for code in (0, 1):
            number = number_of(code, 1, numbers)
            assert (number - Fraction(numbers.zero)) * Fraction(numbers.unit) == code


def test_a_table_lies_in_words_by_bytes():
    numbers = Numbers(kind="table", dtype="bf16", table=(0x0102, 0x0304, 0x0506, 0x0708))
    assert numbers.low == (0x08060402,)
    assert numbers.high == (0x07050301,)
