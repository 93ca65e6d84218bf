"""What is changed after the first token, but for the tensors."""

from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from stepping import TOLERANCE, apart, both, logits_of


def test_hooks_of_every_module_are_called(calls):
    heard, counts = [], []
    handle = register_module_forward_hook(lambda module, *_: heard.append(module))
    try:
        for model in both():
            logits_of(model, steps=2)
            counts.append(len(heard))
    finally:
        handle.remove()
    assert counts[1] == 2 * counts[0]
    assert not calls


def doubled(module: Any) -> None:
    """Make a module one of a class that gives twice as much."""
    own = type(module)

    def forward(self, *args, **given):
        found = own.forward(self, *args, **given)
        return (2 * found[0], *found[1:]) if isinstance(found, tuple) else 2 * found

    module.__class__ = type("Doubled", (own,), {"forward": forward})


PATHS = ["", "self_attn", "mlp", "mlp.act_fn", "input_layernorm", "self_attn.q_proj"]


@pytest.mark.parametrize("path", PATHS)
def test_a_module_that_becomes_one_of_another_class_is_called(path, calls):
    theirs, ours = both()
    logits_of(ours, steps=2)
    calls.clear()
    for model in (theirs, ours):
        doubled(model.model.layers[0].get_submodule(path))
    assert apart(logits_of(ours), logits_of(theirs)) < TOLERANCE[torch.float32]
    assert len(calls) == 10  # the other block's


@pytest.mark.parametrize(
    ("family", "path", "name", "value"),
    [
        ("llama", "self_attn", "scaling", 1.0),
        ("gemma3", "pre_feedforward_layernorm", "eps", 0.5),
        ("olmo2", "post_attention_layernorm", "variance_epsilon", 0.5),
        ("granite", "", "residual_multiplier", 2.0),
        ("gemma2", "self_attn", "attn_logit_softcapping", None),
        ("smollm3", "self_attn", "use_rope", 0),
    ],
)
def test_settings_that_are_changed_are_read_again(family, path, name, value, calls):
    theirs, ours = both(family)
    before = logits_of(ours)
    calls.clear()
    for model in (theirs, ours):
        setattr(model.model.layers[0].get_submodule(path), name, value)
    found = logits_of(ours)
    assert apart(found, before) > 1e-3
    assert apart(found, logits_of(theirs)) < TOLERANCE[torch.float32]
    assert len(calls) >= 20


@pytest.mark.parametrize("scheme", ["nvfp4", "nvfp4+2%int8", "mxfp4", "int4g32d", "ternary2g16"])
def test_scales_that_are_changed_in_place_are_read(scheme, calls):
    theirs, ours = both(schemes=[scheme])
    before = logits_of(ours)
    calls.clear()
    for model in (theirs, ours):
        for name, scale in model.model.layers[0].named_parameters():
            if "proj" in name:
                scale.data *= 2
    found = logits_of(ours)
    assert apart(found, logits_of(theirs)) < TOLERANCE[torch.float32]
    assert scheme == "mxfp4" or apart(found, before) > 1e-3  # whose scales are bytes
    assert len(calls) == 20


@torch.no_grad()
def test_tensors_that_are_put_in_between_two_tokens_are_read(calls):
    theirs, ours = both(schemes=["int4g32"])
    found = []
    for model in (theirs, ours):
        kept = model(torch.full((1, 4), 7), use_cache=True).past_key_values
        block, logits = model.model.layers[0], []
        for step in range(4):
            scale = block.mlp.up_proj.weight.scale
            if step == 1:
                block.mlp.up_proj.weight.scale = torch.nn.Parameter(scale * 2, requires_grad=False)
            if step == 2:
                block.input_layernorm.weight.data = block.input_layernorm.weight.data * 3
            if step == 3:
                held = block.self_attn.o_proj.weight
                state = held.state_dict()
                held.load_state_dict({**state, "scale": state["scale"] * 2}, assign=True)
            logits.append(model(torch.full((1, 1), 9 + step), past_key_values=kept).logits)
        found.append(torch.cat(logits))
    assert apart(*reversed(found)) < TOLERANCE[torch.float32]
    assert len(calls) >= 4


def test_numbers_that_are_put_in_a_scales_place_are_read_with_the_next_prompt(calls):
    theirs, ours = both(schemes=["int4g32"])
    before = logits_of(ours)
    for model in (theirs, ours):
        scale = model.model.layers[0].mlp.up_proj.weight.scale
        scale.data = scale.data * 2
    found = logits_of(ours)
    assert apart(found, before) > 1e-3
    assert apart(found, logits_of(theirs)) < TOLERANCE[torch.float32]
    assert calls
