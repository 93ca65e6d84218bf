"""What a runtime can load, beside what the kernels and the applied model really do."""

import pytest
import torch

from bitplan import allocate, apply_plan
from bitplan.allocator import AverageBits, Constraints
from bitplan.calibration import Sizes
from bitplan.errors import InputError
from bitplan.footprint import legal_schemes
from bitplan.kernels import choose
from bitplan.modules import PackedLinear
from bitplan.packed_weight import PackedWeight
from bitplan.runtimes import RUNTIMES, get_runtime, torch_cpu
from bitplan.schema import Kind, Layer, Scheme


@pytest.mark.parametrize("shape", [(16, 32), (64, 128), (56, 32), (32, 56), (40, 40), (17, 96)])
def test_linears_of_torch_are_those_that_its_kernels_multiply(shape):
    layer = Layer(name="a", kind=Kind.LINEAR, shape=shape)
    for scheme in legal_schemes(layer, "bfloat16"):
        is_quick = scheme.is_float or choose(scheme, shape, kernel="torch")[0] == "torch"
        assert (torch_cpu(layer, scheme) is None) == is_quick, scheme
        assert RUNTIMES["bitplan"](layer, scheme) is None


@pytest.mark.parametrize(
    ("kind", "shape", "tied", "is_quick"),
    [
        (Kind.EMBEDDING, (64, 64), (), True),
        (Kind.EMBEDDING, (64, 64), ("lm_head",), False),
        (Kind.EXPERTS, (2, 64, 64), (), False),
        (Kind.CONV1D, (64, 64), (), True),
        (Kind.CONV2D, (64, 64), (), False),
        (Kind.TIMECONV, (64, 64), (), False),
        (Kind.KEYS, (64, 64), (), False),
    ],
)
def test_other_kinds_are_decoded(kind, shape, tied, is_quick):
    layer = Layer(name="a", kind=kind, shape=shape, tied=tied)
    assert (torch_cpu(layer, Scheme.parse("int4g64")) is None) == is_quick
    assert torch_cpu(layer, Scheme.parse("bf16")) is None


def test_an_applied_plan_for_torch_decodes_nothing(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("BITPLAN_KERNEL", "torch")
    model = tiny_model("llama", torch.bfloat16)
    plan = allocate(
        model,
        workdir=tmp_path,
        schemes=["int3", "int4g32", "int4", "int8s", "bf16"],
        sizes=Sizes(calibration=8, search=2, held_out=2, length=8),
        estimator="weight_error",
        quantizer="rtn",
        verify=False,
        constraints=Constraints(runtime="torch-cpu", limits=(AverageBits(most=13),)),
    )
    packed = apply_plan(model, plan, workdir=tmp_path)
    linears = [module for module in packed.modules() if isinstance(module, PackedLinear)]
    assert linears
    for linear in linears:
        assert isinstance(linear.weight, PackedWeight)
        assert linear.weight.scheme.is_float or linear.weight.implementation == "torch"


def test_an_unknown_runtime_lists_the_known():
    with pytest.raises(InputError, match=r"no runtime 'gguf'\. Choose one of bitplan, torch-cpu"):
        get_runtime("gguf")
