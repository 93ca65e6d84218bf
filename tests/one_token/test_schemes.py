import copy
from typing import Any

import pytest
import torch
from torch import nn

from bitplan.absent import AbsentWeight
from bitplan.formats import Packed
from bitplan.kernels.native import job
from bitplan.one_token import step_by_step
from bitplan.schema import Scheme
from stepping import (
    TOLERANCE,
    apart,
    both,
    logits_of,
    packed_model,
)

SCHEMES = ["int2g32", "int3", "int4g64", "int5g64s", "int8g32", "int4g32d", "int8s", "sign", "nf4"]
SCHEMES += ["fp8g64", "mxfp4", "nvfp4", "bfp4g16", "ternaryg16", "bitmod3g16", "int4g16+2:4"]
SCHEMES += ["int3+50%", "bf16", "fp32"]
SCHEMES += [
    "ternary2g16",
    "binary2g64",
    "int4g16+25%ch",
    "int4g16+2%int8",
    "int4g16+2%bf16",
    "int4g16+r2",
]
SCHEMES += ["ternary2g16+2%int8", "int3+25%ch+2%int8+r3"]
OTHER_WAY = ["ternary2g16+2:4", "fp16"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_of_compiled_loops(scheme, calls):
    theirs, ours = both(schemes=[scheme])
    assert apart(logits_of(ours), logits_of(theirs)) < TOLERANCE[torch.float32]
    assert len(calls) == 21


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_weights_of_several_parts_for_sequences_together(dtype, calls, monkeypatch):
    schemes = ["int3g32", "int4g16+2%int8", "int4g32+r16", "binary2g32", "int3+25%ch+2%int8+r3"]
    theirs, ours = both(schemes=schemes, dtype=dtype)
    prompt = torch.arange(3, 27).view(3, 8)
    expected, found = logits_of(theirs, prompt=prompt), logits_of(ours, prompt=prompt)
    assert apart(found, expected) < TOLERANCE[dtype]
    assert len(calls) == 21
    monkeypatch.setattr(job, "LEAST_WORK", 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert logits_of(ours, prompt=prompt).equal(found)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("scheme", OTHER_WAY)
def test_schemes_of_other_products_are_left_to_transformers(scheme, calls):
    theirs, ours = both(schemes=["int4g64", scheme])
    assert logits_of(ours).equal(logits_of(theirs))
    assert not calls


def test_layers_that_were_left_as_they_are_take_part(calls):
    theirs = packed_model()
    for name in ("q_proj", "o_proj"):
        dense = nn.Linear(64, 64, bias=False)
        theirs.model.layers[1].self_attn.set_submodule(name, dense.requires_grad_(False))
    ours: Any = step_by_step(copy.deepcopy(theirs))
    assert apart(logits_of(ours), logits_of(theirs)) < TOLERANCE[torch.float32]
    assert len(calls) == 21
    for model in (ours, theirs):
        model.model.layers[1].self_attn.o_proj.weight.data = torch.eye(64)
    assert apart(logits_of(ours), logits_of(theirs)) < TOLERANCE[torch.float32]


def test_a_sublayer_that_is_left_out_adds_nothing(calls):
    theirs = packed_model("llama, biases")
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        linear = theirs.model.layers[0].self_attn.get_submodule(name)
        packed = Packed(scheme=Scheme.parse("none"), shape=tuple(linear.weight.shape), tensors={})
        linear.weight = AbsentWeight(packed, compute_dtype=torch.float32)
    ours: Any = step_by_step(copy.deepcopy(theirs))
    assert apart(logits_of(ours), logits_of(theirs)) < TOLERANCE[torch.float32]
    assert len(calls) == 21


def test_another_weight_of_several_parts_is_read(calls):
    scheme = "int4g16+25%ch+2%int8+r2"
    theirs, ours = both(schemes=[scheme])
    logits_of(ours)
    calls.clear()
    for model in (theirs, ours):
        linears = model.model.layers[0].self_attn
        linears.q_proj.load_state_dict(linears.o_proj.state_dict())
        linears.k_proj.weight = copy.deepcopy(linears.v_proj.weight)
        model.model.layers[1].mlp.down_proj.weight.up.scale.data *= 2
    assert apart(logits_of(ours), logits_of(theirs)) < TOLERANCE[torch.float32]
    assert len(calls) == 20
