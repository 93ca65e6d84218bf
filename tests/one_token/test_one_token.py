import copy
import io
import logging
import threading
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import (
    StaticCache,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention

from bitplan.apply import arrange_layers
from bitplan.errors import InputError
from bitplan.kernels.decoder.block import Block
from bitplan.kernels.native import job
from bitplan.one_token import step_by_step
from stepping import (
    PROMPT,
    TOLERANCE,
    apart,
    both,
    counted,
    logits_of,
    packed_model,
    with_packed_caches,
)


def test_sequences_together_some_of_them_padded(calls):
    theirs, ours = both()
    prompt = torch.arange(3, 27).view(3, 8)
    mask = torch.ones_like(prompt)
    mask[0, :5], mask[2, :1] = 0, 0
    expected = logits_of(theirs, prompt=prompt, attention_mask=mask)
    found = logits_of(ours, prompt=prompt, attention_mask=mask)
    assert apart(found, expected) < TOLERANCE[torch.float32]
    assert len(calls) == 21


def test_a_mask_of_other_tokens_is_refused(calls):
    theirs, ours = both()
    inputs = torch.tensor([[5]])
    for model, refusal in ((theirs, RuntimeError), (ours, InputError)):
        cache = model(PROMPT, use_cache=True).past_key_values
        with torch.no_grad(), pytest.raises(refusal):
            model(inputs, past_key_values=cache, attention_mask=torch.ones(1, 1, 1, 3) > 0)
    assert calls


def test_numbers_that_are_added_to_scores_may_be_the_mask(calls):
    theirs, ours = both()
    found = []
    for model in (theirs, ours):
        cache = model(PROMPT, use_cache=True).past_key_values
        mask = torch.linspace(-2, 2, 9).view(1, 1, 1, 9)
        with torch.no_grad():
            more = {"past_key_values": cache, "attention_mask": mask}
            found.append(model(torch.tensor([[5]]), **more).logits)
    assert apart(found[1], found[0]) < TOLERANCE[torch.float32]
    assert len(calls) == 3


def test_more_sequences_than_are_quicker_so(calls):
    theirs, ours = both()
    prompt = torch.arange(3, 12).view(9, 1)
    assert logits_of(ours, prompt=prompt).equal(logits_of(theirs, prompt=prompt))
    assert not calls


@pytest.mark.parametrize(
    "how",
    [{}, {"cache_implementation": "static"}, {"num_beams": 3}, {"use_cache": False}],
    ids=["greedy", "static cache", "beams", "no cache"],
)
def test_the_same_text_is_generated(how, calls):
    theirs, ours = both()
    how = {"max_new_tokens": 12, "do_sample": False, **how}
    if how.get("cache_implementation"):
        how["disable_compile"] = True
    expected = theirs.generate(PROMPT, **how)
    assert ours.generate(PROMPT, **how).equal(expected)
    assert bool(calls) == how.get("use_cache", True)


def test_a_cache_that_is_longer_than_what_was_seen(calls):
    theirs, ours = both()
    found = []
    for model in (theirs, ours):
        cache = StaticCache(config=model.config, max_cache_len=40)
        found.append(logits_of(model, past_key_values=cache))
    assert apart(found[1], found[0]) < TOLERANCE[torch.float32]
    assert len(calls) == 21


@pytest.mark.parametrize("cache", ["as it is", "packed"])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads, cache, calls, monkeypatch):
    models = both()
    if cache == "packed":
        with_packed_caches(models, "int8g16", "int5g32")
        monkeypatch.setattr(Block, "after_packed", counted(Block.after_packed, calls))
    ours = models[1]

    def logits() -> Tensor:
        return logits_of(
            ours, **({"past_key_values": ours.new_cache()} if cache == "packed" else {})
        )

    expected = logits()
    monkeypatch.setattr(job, "LEAST_WORK", 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for _ in range(5):
            assert logits().equal(expected)
    finally:
        torch.set_num_threads(before)
    assert len(calls) == 6 * 20 + 1


def test_two_threads_may_generate_at_once(calls):
    theirs, ours = both()
    expected, found = logits_of(theirs), {}

    def generate(number: int) -> None:
        found[number] = [logits_of(ours) for _ in range(5)]

    threads = [threading.Thread(target=generate, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [one for some in found.values() for one in some]
    assert len(every) == 15
    assert all(apart(one, expected) < TOLERANCE[torch.float32] for one in every)
    assert calls


@pytest.mark.parametrize("path", ["self_attn", "self_attn.q_proj", "mlp", "mlp.act_fn"])
def test_hooks_are_called(path, calls):
    _, ours = both()
    heard = []
    module = ours.model.layers[0].get_submodule(path)
    handle = module.register_forward_hook(lambda *_: heard.append(1))
    logits_of(ours, steps=3)
    assert len(heard) == 1 + 3
    assert len(calls) == 3 + 1  # the other block's
    handle.remove()
    logits_of(ours, steps=3)
    assert len(heard) == 4
    assert len(calls) == 3 + 1 + 6


def test_a_module_in_anothers_place_is_called(calls):
    _, ours = both()
    attention = ours.model.layers[0].self_attn
    before = logits_of(ours, steps=2)
    own = attention.v_proj

    class Twice(nn.Module):
        def forward(self, inputs):
            return 2 * own(inputs)

    attention.v_proj = Twice()
    calls.clear()
    assert not logits_of(ours, steps=2).equal(before)
    assert len(calls) == 2
    attention.v_proj = own
    assert logits_of(ours, steps=2).equal(before)
    assert len(calls) == 2 + 4


class Doubled(nn.Module):
    """What a block's own module gives, twice."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own

    def forward(self, *args, **keywords):
        found = self.own(*args, **keywords)
        return (2 * found[0], *found[1:]) if isinstance(found, tuple) else 2 * found


@pytest.mark.parametrize("path", ["self_attn", "mlp", "input_layernorm", "self_attn.o_proj"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_whatever_stands_in_a_modules_place_is_called(path, when, calls):
    theirs, ours = both()
    if when == "after":
        logits_of(ours, steps=2)
    calls.clear()
    for model in (theirs, ours):
        block = model.model.layers[0]
        block.set_submodule(path, Doubled(block.get_submodule(path)))
    assert apart(logits_of(ours), logits_of(theirs)) < TOLERANCE[torch.float32]
    assert len(calls) == 10 + (when == "before")  # the other block's


@pytest.mark.parametrize("path", ["self_attn", "mlp", "input_layernorm", "self_attn.q_proj"])
def test_a_forward_that_is_put_on_a_module_is_called(path, calls):
    _, ours = both()
    before = logits_of(ours)
    module = ours.model.layers[0].get_submodule(path)
    module.forward = Doubled(module.forward).forward
    calls.clear()
    assert not logits_of(ours).equal(before)
    assert len(calls) == 10


def test_masks_that_are_no_tensors_are_left_to_transformers(calls, monkeypatch):
    masks = []

    class Mask:
        """As FlexAttention has one."""

    def attend(module, query, keys, values, mask, **given):
        masks.append(mask)
        return sdpa_attention_forward(module, query, keys, values, None, **given)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flex_attention", attend)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS, "flex_attention", lambda *_, **__: Mask())
    theirs, ours = map(copy.deepcopy, both())  # each has a configuration of its own
    for model in (theirs, ours):
        model.set_attn_implementation("flex_attention")
    assert logits_of(ours).equal(logits_of(theirs))
    assert {type(mask) for mask in masks} == {Mask}
    assert not calls


def test_products_of_another_dtype_are_left_to_transformers(calls):
    theirs, ours = both()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = logits_of(theirs), logits_of(ours)
    assert found.equal(expected)
    assert not calls
    assert apart(logits_of(ours), logits_of(theirs)) < TOLERANCE[torch.float32]
    assert len(calls) == 21


def test_sequences_beyond_a_window_none_of_them_padded(calls):
    theirs, ours = both("mistral, window")
    prompt = torch.arange(3, 27).view(3, 8)
    expected, found = logits_of(theirs, prompt=prompt), logits_of(ours, prompt=prompt)
    assert apart(found, expected) < TOLERANCE[torch.float32]
    assert len(calls) == 21


def test_what_wants_gradients_has_them(calls):
    theirs, ours = both()
    found = []
    for model in (theirs, ours):
        inputs = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0))
        inputs.requires_grad_()
        model(inputs_embeds=inputs).logits.sum().backward()
        found.append(inputs.grad)
    assert found[1].equal(found[0])
    assert not calls


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_eager_attention_gives_its_weights(family, calls):
    _, ours = both(family)
    ours.set_attn_implementation("eager")
    with torch.no_grad():
        found = ours(torch.tensor([[5]]), output_attentions=True)
    assert found.attentions[0].shape == (1, 4, 1, 1)
    assert not calls


def test_hidden_states_are_those_of_every_block():
    theirs, ours = both()
    with torch.no_grad():
        expected = theirs(torch.tensor([[5]]), output_hidden_states=True).hidden_states
        found = ours(torch.tensor([[5]]), output_hidden_states=True).hidden_states
    assert len(found) == len(expected) == 3
    for one, other in zip(found, expected, strict=True):
        assert apart(one, other) < TOLERANCE[torch.float32]


def test_what_is_moved_or_loaded_or_laid_out_again_is_read_again(calls):
    theirs, ours = both()
    logits_of(ours)
    other = packed_model(schemes=["int4g64"])
    for model in (theirs, ours):
        model.to(torch.bfloat16)
    assert apart(logits_of(ours), logits_of(theirs)) < TOLERANCE[torch.bfloat16]
    for model in (theirs, ours):
        model.to(torch.float32)
        model.model.layers[0].self_attn.set_submodule(
            "q_proj", copy.deepcopy(other.model.layers[0].self_attn.q_proj)
        )
        model.model.layers[1].mlp.up_proj.weight.arrange(kernel="cpu")
        model.model.layers[1].mlp.up_proj.weight.scale.data *= 1.5
        scale = model.model.layers[0].mlp.gate_proj.weight.scale
        scale.data = scale.data * 1.5
        model.model.layers[1].input_layernorm.weight.data = torch.arange(64) / 64
    calls.clear()
    assert apart(logits_of(ours), logits_of(theirs)) < TOLERANCE[torch.float32]
    assert len(calls) == 20


def test_norms_of_another_dtype_are_left_to_transformers(calls):
    theirs, ours = both(dtype=torch.bfloat16)
    logits_of(ours, steps=2)
    calls.clear()
    for model in (theirs, ours):  # as what prepares a model for adapters makes them
        for block in model.model.layers:
            block.input_layernorm.float()
    assert logits_of(ours).equal(logits_of(theirs))
    assert not calls


def test_copies_go_their_own_ways(calls):
    _, ours = both()
    logits_of(ours, steps=1)
    copied = copy.deepcopy(ours)
    written = io.BytesIO()
    torch.save(ours, written)
    written.seek(0)
    assert logits_of(torch.load(written, weights_only=False)).equal(logits_of(ours))
    calls.clear()
    copied.model.layers[0].mlp.up_proj.weight.scale.data *= 2
    assert not logits_of(copied).equal(logits_of(ours))
    assert len(calls) == 21 + 20


def test_the_trial_leaves_random_numbers_alone():
    _, ours = both()
    with torch.no_grad():
        torch.manual_seed(3)
        ours(torch.tensor([[5]]))
        assert torch.rand(1).equal(torch.rand(1, generator=torch.Generator().manual_seed(3)))


def test_another_transformers_is_left_to_itself(calls, monkeypatch, caplog):
    theirs, ours = both()
    forward = LlamaAttention.forward

    def other(self, hidden_states, **keywords):
        output, weights = forward(self, hidden_states, **keywords)
        return output * 1.2, weights

    monkeypatch.setattr(LlamaAttention, "forward", other)
    with caplog.at_level(logging.WARNING):
        found = logits_of(ours)
    assert found.equal(logits_of(theirs))
    assert [record.getMessage() for record in caplog.records] == [
        "Blocks of LlamaDecoderLayer are computed otherwise by this version of transformers: each "
        "token is taken its way, which is slower."
    ]
    assert len(calls) == 1


def test_a_block_that_cannot_be_tried_alone_is_left_to_itself(calls, monkeypatch):
    theirs, ours = both()
    forward = LlamaAttention.forward

    def other(self, hidden_states, **keywords):
        if not isinstance(keywords["past_key_values"], transformers.Cache):
            raise TypeError("this is no cache")
        return forward(self, hidden_states, **keywords)

    monkeypatch.setattr(LlamaAttention, "forward", other)
    assert logits_of(ours).equal(logits_of(theirs))
    assert len(calls) == 1


def test_packed_models_step_so_by_themselves(calls):
    model = packed_model()
    logits_of(arrange_layers(model))
    assert len(calls) == 21


def test_a_forward_that_another_has_put_there_stays(calls):
    model = packed_model()
    own, block = [], model.model.layers[0]
    forward = block.forward

    def hooked(*args, **keywords):  # as accelerate moves inputs between devices
        own.append(1)
        return forward(*args, **keywords)

    block.forward = hooked
    logits_of(step_by_step(step_by_step(model)), steps=3)
    assert len(own) == 1 + 3
    assert len(calls) == 3 + 1


def test_compiled_models_are_compiled(calls):
    theirs, ours = both()
    inputs = torch.tensor([[5]])
    with torch.no_grad():
        expected = theirs(inputs).logits
        exported = torch.export.export(ours, (inputs,), kwargs={"use_cache": False}, strict=False)
        assert apart(exported.module()(inputs, use_cache=False).logits, expected) < 1e-6
    assert not calls
