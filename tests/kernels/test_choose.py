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


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize(
    ("name", "shape", "implementation", "reason"),
    [
        ("int4g64", (64, 64), "triton", "4-bit codes as they are stored"),
        ("int3", (7, 96), "triton", "3-bit codes as they are stored"),
        ("int4g64", (64, 100), "reference", "columns in 32s"),
        ("int4g64d", (64, 64), "reference", "plain scales"),
        ("int4g64+50%", (64, 64), "reference", "plain scales"),
        ("nf4", (64, 64), "reference", "plain scales"),
        ("int4g64", (3, 64, 64), "reference", "canonical layout"),
        ("bf16", (64, 64), "reference", "dense"),
    ],
)
def test_what_multiplies_on_a_gpu_and_why(name, shape, implementation, reason, device):
    found, why = choose(Scheme.parse(name), shape, device=device)
    assert found == implementation
    assert reason in why
    assert why.endswith(".")


def test_on_a_gpu_without_triton_the_reference(monkeypatch):
    monkeypatch.setattr("bitplan.kernels.integer.triton.find_spec", lambda name: None)
    assert choose(Scheme.parse("int4g64"), (64, 64), device="cuda") == (
        "reference",
        "On cuda, Triton is not installed.",
    )


def test_on_other_devices_the_reference():
    implementation, why = choose(Scheme.parse("int4g64"), (64, 64), device="meta")
    assert implementation == "reference"
    assert "meta" in why
