import importlib.util

import pytest

from bitplan.errors import InputError
from bitplan.kernels import choose
from bitplan.kernels.choose import KERNEL
from bitplan.kernels.native import dot
from bitplan.schema import Scheme


@pytest.fixture(autouse=True)
def free_choice(monkeypatch):
    monkeypatch.delenv(KERNEL, raising=False)
    monkeypatch.setattr(dot, "instructions", lambda: "avx2")


@pytest.mark.parametrize(
    ("name", "shape", "implementation", "reason"),
    [
        ("int2g16", (17, 31), "cpu", "2-bit codes as they are packed"),
        ("int3", (576, 1500), "cpu", "3-bit codes as they are packed"),
        ("int4g64", (48, 64), "dot", "Products of bytes multiply 4-bit codes"),
        ("int4g64d", (64, 64), "dot", "Products of bytes multiply 4-bit codes"),
        ("int4g64d", (64, 72), "cpu", "4-bit codes as they are packed"),
        ("int3g64", (63, 64), "cpu", "columns in 32s and rows in 16s"),
        ("int8s", (48, 81), "cpu", "8-bit codes as they are packed"),
        ("fp8", (64, 64), "cpu", "8-bit codes through their table"),
        ("sign", (64, 64), "cpu", "1-bit codes through their table"),
        ("mxfp4", (64, 64), "cpu", "4-bit codes through their table"),
        ("int4g64+2:4", (64, 64), "cpu", "kept codes of a row, 2:4,"),
        ("nf4g64+50%", (17, 31), "cpu", "kept codes of a row, 50%,"),
        ("ternary2g16+2:4", (64, 64), "reference", "leaves weights out of two planes"),
        ("ternary", (17, 31), "cpu", "ternary codes as they are packed, five to a byte"),
        ("ternaryg16+2:4", (64, 64), "cpu", "kept codes of a row"),
        ("ternaryg64", (3, 48, 64), "cpu", "That is of one expert after another"),
        ("ternaryg64", (3, 50, 64), "reference", "experts with rows in 4s"),
        ("bitmod4g16", (17, 31), "cpu", "the table that their group chose"),
        ("bitmod3+25%ch", (64, 64), "cpu", "their group chose. That is of its base"),
        ("int4g64+25%ch", (64, 128), "dot", "That is of its base"),
        ("binary2g16", (17, 31), "cpu", "two planes of bits"),
        ("binary2g16d", (64, 64), "reference", "a byte less 128"),
        ("ternary2g16", (17, 31), "cpu", "two planes of ternary codes"),
        ("ternary2g16d", (64, 64), "reference", "a byte less 128"),
        ("int8s", (3, 48, 80), "cpu", "That is of one expert after another"),
        ("int4g64", (3, 48, 64), "dot", "That is of one expert after another"),
        ("int8s", (3, 50, 80), "reference", "experts with rows in 4s"),
        ("int4g64+2:4", (3, 64, 64), "cpu", "as read. That is of one expert"),
        ("bitmod4", (3, 50, 64), "reference", "experts with rows in 4s"),
        ("int8s", (0, 80), "reference", "nothing to multiply"),
        ("int8s", (3, 0, 80), "reference", "nothing to multiply"),
        ("bf16", (64, 64), "reference", "dense"),
        ("fp32", (3, 64, 64), "reference", "dense"),
        ("int3g64+2%int8", (64, 96), "cpu", "That is of its base"),
        ("int4g64+2:4+2%bf16+r4", (64, 96), "cpu", "kept codes of a row, 2:4, as read. That is of"),
        ("nf4+r4", (3, 64, 96), "cpu", "one expert after another. That is of its base"),
    ],
)
def test_what_multiplies_and_why(name, shape, implementation, reason):
    found, why = choose(Scheme.parse(name), shape)
    assert found == implementation
    assert reason in why
    assert why.endswith(".")


@pytest.mark.parametrize(
    ("name", "shape", "implementation", "reason"),
    [
        ("int4g32", (16, 32), "torch", "4-bit matmul fits"),
        ("int4g64", (576, 1536), "torch", "4-bit matmul fits"),
        ("int4g128", (32, 256), "torch", "4-bit matmul fits"),
        ("int8s", (48, 80), "torch", "8-bit matmul fits"),
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
def test_torchs_own_where_it_is_asked_for_and_fits(name, shape, implementation, reason):
    found, why = choose(Scheme.parse(name), shape, kernel="torch")
    assert found == implementation
    assert reason in why
    assert why.endswith(".")


def test_groups_that_no_half_span_keeps_to_are_decoded():
    scheme = Scheme(format="int", bits=4, group_size=24, symmetric=False)
    name, why = choose(scheme, (64, 96))
    assert name == "reference"
    assert why.startswith("Compiled loops take groups of 16, 32, 48 and so on.")


def test_one_layout_serves_products_and_lookups():
    scheme = Scheme.parse("int4g64")
    assert choose(scheme, (64, 64), lookup=True)[0] == "dot"
    assert choose(scheme, (64, 64), lookup=True, kernel="cpu")[0] == "cpu"
    assert choose(scheme, (64, 64), lookup=True, kernel="torch")[0] == "reference"
    assert choose(scheme, (64, 64), lookup=True, device="cuda")[0] == "triton"
    sparse = Scheme.parse("int4g64+2:4")
    assert choose(sparse, (64, 64), device="cuda")[0] == "triton"
    assert choose(sparse, (64, 64), lookup=True, device="cuda")[0] == "reference"


@pytest.mark.parametrize("kernel", ["dot", "dot8", "cpu", "torch", "reference"])
def test_the_environment_or_an_argument_says_which(kernel, monkeypatch):
    scheme = Scheme.parse("int4g64")
    assert choose(scheme, (64, 64), kernel=kernel)[0] == kernel
    monkeypatch.setenv(KERNEL, kernel)
    assert choose(scheme, (64, 64))[0] == kernel
    assert choose(scheme, (64, 64), kernel="reference")[0] == "reference"


def test_an_unknown_kernel_lists_the_known(monkeypatch):
    message = r"no kernel 'gpu'\. Choose one of dot, dot8, cpu, torch, triton, reference"
    with pytest.raises(InputError, match=message):
        choose(Scheme.parse("bf16"), (64, 64), kernel="gpu")
    monkeypatch.setenv(KERNEL, "gpu")
    with pytest.raises(InputError, match=message):
        choose(Scheme.parse("int4g64"), (64, 64))


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize(
    ("name", "shape", "implementation", "reason"),
    [
        ("int4g64", (64, 64), "triton", "4-bit codes as they are stored"),
        ("int3", (7, 96), "triton", "3-bit codes as they are stored"),
        ("int4g64", (64, 100), "reference", "columns in 32s"),
        ("sign", (64, 64), "triton", "1-bit codes as they are stored"),
        ("nf4g16", (64, 64), "triton", "4-bit codes as they are stored"),
        ("bfp5", (64, 64), "triton", "5-bit codes as they are stored"),
        ("mxfp6", (64, 64), "triton", "6-bit codes as they are stored"),
        ("nvfp4", (64, 64), "triton", "4-bit codes as they are stored"),
        ("int4g64d", (64, 64), "triton", "4-bit codes as they are stored"),
        ("nf4g16d", (64, 4128), "triton", "4-bit codes as they are stored"),
        ("int4g64+50%", (64, 64), "triton", "spread the kept codes of a row, 50%, in registers"),
        ("nf4g64+2:4", (64, 64), "triton", "spread the kept codes of a row, 2:4, in registers"),
        ("int4g64+25%ch", (64, 128), "triton", "as they are stored. That is of its base"),
        ("int4g64+2:4+25%ch", (64, 128), "triton", "in registers. That is of its base"),
        ("int4g16+2:4", (64, 64), "reference", "take 2:4 in groups of 32 and more, and whole rows"),
        ("bitmod3", (64, 64), "triton", "look codes up in the table that their group chose"),
        ("binary2", (64, 64), "triton", "two planes, one after the other, as they are stored"),
        (
            "ternary",
            (64, 64),
            "triton",
            "multiply ternary codes, five to a byte, as they are stored",
        ),
        ("ternary2g16d", (64, 96), "triton", "two planes, one after the other, as they are stored"),
        ("ternaryg64+2:4", (64, 64), "reference", "out where five codes share a byte"),
        ("binary2g64+2:4", (64, 64), "reference", "leaves weights out of two planes"),
        ("int4g64", (3, 64, 64), "triton", "as they are stored. That is of all experts at once"),
        ("binary2", (3, 50, 64), "triton", "one after the other, as they are stored. That is of"),
        ("int4g64", (3, 64, 100), "reference", "columns in 32s"),
        ("int4g64+2:4", (3, 64, 64), "reference", "No Triton kernel leaves weights of experts out"),
        ("bf16", (64, 64), "reference", "dense"),
    ],
)
def test_what_multiplies_on_a_gpu_and_why(name, shape, implementation, reason, device):
    found, why = choose(Scheme.parse(name), shape, device=device)
    assert found == implementation
    assert reason in why
    assert why.endswith(".")


def test_on_a_gpu_without_triton_the_reference(monkeypatch):
    monkeypatch.setattr("bitplan.kernels.gpu.operator.find_spec", lambda name: None)
    assert choose(Scheme.parse("int4g64"), (64, 64), device="cuda") == (
        "reference",
        "Triton is not installed.",
    )


def test_on_other_devices_the_reference():
    implementation, why = choose(Scheme.parse("int4g64"), (64, 64), device="meta")
    assert implementation == "reference"
    assert "meta" in why


def test_a_processor_without_products_of_bytes_has_the_loops(monkeypatch):
    monkeypatch.setattr(dot, "instructions", lambda: None)
    found, why = choose(Scheme.parse("int4g64"), (64, 64))
    assert found == "cpu"
    assert "no products of bytes" in why


def test_salient_columns_leave_a_base_that_the_kernels_of_a_gpu_multiply():
    # 4096 columns, of which 1% is 64: in 32s, as all that is left is.
    find = importlib.util.find_spec("triton")
    found, why = choose(Scheme.parse("int3g64+1%int8+r16"), (4096, 4096), device="cuda")
    assert found == ("triton" if find else "reference")
    assert ("3-bit codes as they are stored" if find else "not installed") in why
    found, why = choose(Scheme.parse("int3g64+1%int8"), (576, 576), device="cuda")
    assert found == "reference"
    assert "columns in 32s" in why
