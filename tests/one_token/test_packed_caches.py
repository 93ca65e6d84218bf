import pytest
import torch

from stepping import PROMPT, TOLERANCE, apart, both, logits_of, with_packed_caches


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("family", ["llama", "mistral, window", "gemma2", "gemma3", "phi3"])
def test_packed_caches_are_attended_to_as_they_are(family, dtype, packed_calls):
    theirs, ours = with_packed_caches(both(family, dtype=dtype), "int8g16", "int5g32")
    prompt = torch.arange(3, 27).view(3, 8)
    mask = torch.ones_like(prompt)
    mask[0, :5], mask[2, :1] = 0, 0
    found = [
        logits_of(model, prompt=prompt, attention_mask=mask, past_key_values=model.new_cache())
        for model in (theirs, ours)
    ]
    assert apart(found[1], found[0]) < TOLERANCE[dtype]
    assert len(packed_calls) == 20


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_text_is_generated_with_packed_caches(how, packed_calls):
    theirs, ours = with_packed_caches(both(), "int4g32", "int6")
    how = {"max_new_tokens": 30, "do_sample": False, **how}
    expected = theirs.generate(PROMPT, **how)
    assert ours.generate(PROMPT, **how).equal(expected)
    assert len(packed_calls) == 2 * 29


def test_packed_caches_that_no_loop_attends_to_are_decoded(packed_calls, calls):
    for keys, family in (("bf16", "llama"), ("int8", "llama, wide heads")):
        theirs, ours = with_packed_caches(both(family), keys, "int8")
        found = [logits_of(model, past_key_values=model.new_cache()) for model in (theirs, ours)]
        assert apart(found[1], found[0]) < TOLERANCE[torch.float32]
    assert not packed_calls
    assert len(calls) == 2 * 21
