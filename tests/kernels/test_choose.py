import pytest

from bitplan.kernels import choose
from bitplan.schema import Scheme


@pytest.mark.parametrize(
    ("name", "shape", "implementation", "reason"),
    [
        ("int4g32", (16, 32), "cpu", "4-bit matmul fits"),
        ("int4g64", (576, 1536), "cpu", "4-bit matmul fits"),
        ("int4g128", (32, 256), "cpu", "4-bit matmul fits"),
        ("int8s", (48, 80), "cpu", "8-bit matmul fits"),
        ("int4g64", (576, 1500), "reference", "whole groups"),
        ("int4g64", (570, 1536), "reference", "rows in 16s"),
        ("int8s", (48, 81), "reference", "sides in 16s"),
        ("int8s", (47, 80), "reference", "sides in 16s"),
        ("int4", (16, 32), "reference", "int8s alone"),
        ("int4g64s", (64, 64), "reference", "int8s alone"),
        ("int8", (64, 64), "reference", "int8s alone"),
        ("int8g64s", (64, 64), "reference", "int8s alone"),
        ("int3g64", (64, 64), "reference", "int8s alone"),
        ("int8s", (3, 48, 80), "reference", "canonical layout"),
        ("int4g16", (64, 64), "reference", "int8s alone"),
        ("int4g64d", (64, 64), "reference", "int8s alone"),
        ("fp8", (64, 64), "reference", "int8s alone"),
        ("fp4g64", (64, 64), "reference", "int8s alone"),
        ("mxfp4", (64, 64), "reference", "int8s alone"),
        ("sign", (64, 64), "reference", "int8s alone"),
        ("bf16", (64, 64), "reference", "dense"),
        ("fp32", (3, 64, 64), "reference", "dense"),
    ],
)
def test_what_multiplies_and_why(name, shape, implementation, reason):
    found, why = choose(Scheme.parse(name), shape)
    assert found == implementation
    assert reason in why
    assert why.endswith(".")


def test_what_is_looked_up_in_stays_canonical():
    assert choose(Scheme.parse("int4g64"), (64, 64), lookup=True)[0] == "reference"


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "meta"])
def test_elsewhere_than_on_the_cpu_the_reference(device):
    implementation, why = choose(Scheme.parse("int4g64"), (64, 64), device=device)
    assert implementation == "reference"
    assert device in why
