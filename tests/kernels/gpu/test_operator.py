import pytest

from bitplan.kernels.gpu.operator import unfit
from bitplan.schema import Scheme
from interpreted import interpret
from interpreted_experts import STACKS


@pytest.mark.parametrize(
    ("name", "columns", "reason"),
    [
        ("int4g64", 96, None),
        ("nf4", 128, None),
        ("nvfp4", 160, None),
        ("int4g64", 100, "columns in 32s"),
        ("sign", 100, "columns in 32s"),
        ("int4g64d", 128, None),
        ("nf4g16d", 4096, None),
        ("nf4g16d", 4128, None),
        ("int4g64+2:4", 128, None),
        ("int4g64+2:4", 100, "columns in 32s"),
        ("int4g16+1:2", 128, None),
        ("int4g32+2:4", 128, None),
        ("int4g16+2:4", 128, "2:4 in groups of 32 and more"),
        ("nvfp4+2:4", 128, "2:4 in groups of 32 and more"),
        ("mxfp4+4:8", 128, "4:8 in groups of 64 and more"),
        ("mxfp4+50%", 128, None),
        ("nvfp4+50%", 128, None),
        ("sign+1:8", 128, "32 bits of 32 weights"),
        ("sign+3:4", 128, None),
        ("ternaryg16+50%", 160, "five codes share a byte"),
        ("binary2g16+2:4", 160, "leaves weights out of two planes"),
        ("int4g64+50%", 65536, None),
        ("int4g64+50%", 65568, "more than 65,536 columns"),
        ("bitmod4g16", 128, None),
        ("bitmod4g16", 100, "columns in 32s"),
        ("ternaryg16", 160, None),
        ("ternary2g16", 160, None),
        ("ternary", 100, "columns in 32s"),
        ("binary2g16", 160, None),
    ],
)
def test_what_fits(name, columns, reason):
    found = unfit(Scheme.parse(name), columns)
    assert found is None if reason is None else reason in found


def test_groups_of_other_sizes_are_decoded():
    scheme = Scheme(format="int", bits=4, group_size=24)
    assert unfit(scheme, 96) == "the Triton kernels take groups of 16, 32, 64, 128"


def test_torch_knows_the_operators_and_compiles_them_into_one_graph():
    for found in interpret(
        ["nvfp4", "bitmod4g16", "binary2g16d", "ternary2g64", "int4g32+2:4", "nf4g16+50%"]
    ):
        assert set(found["checked"]) == {"SUCCESS"}
        assert found["same"]


def test_torch_knows_the_operator_of_several_stacks_and_compiles_it_into_one_graph():
    names = ["int4g64 nvfp4 int4g64 ternary2g64", "bitmod4g16 int4g32sd binary2g16d"]
    for found in interpret([f"{STACKS}{of_experts}" for of_experts in names]):
        assert set(found["checked"]) == {"SUCCESS"}
        assert found["same"]
