import pytest
import torch

from stepping import FAMILIES, PROMPT, TOLERANCE, apart, both, logits_of


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_taken_as_transformers_takes_them(family, dtype, calls):
    theirs, ours = both(family, dtype=dtype)
    expected, found = logits_of(theirs), logits_of(ours)
    trials = 2 if family == "smollm3" else 1  # of each kind of block that it has
    assert len(calls) == 10 * 2 + trials
    assert apart(found, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_together_in_every_family(family, dtype, calls):
    theirs, ours = both(family, dtype=dtype)
    prompt = torch.arange(3, 27).view(3, 8)
    mask = torch.ones_like(prompt)
    mask[0, :5], mask[2, :1] = 0, 0
    expected = logits_of(theirs, prompt=prompt, attention_mask=mask)
    found = logits_of(ours, prompt=prompt, attention_mask=mask)
    assert apart(found, expected) < TOLERANCE[dtype]
    assert len(calls) > 20


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_text_is_generated_in_every_family(family, cache, calls):
    theirs, ours = both(family)
    how = {"max_new_tokens": 10, "do_sample": False, "cache_implementation": cache}
    how |= {"disable_compile": True, "return_dict_in_generate": True, "output_logits": True}
    expected, found = theirs.generate(PROMPT, **how), ours.generate(PROMPT, **how)
    assert found.sequences.equal(expected.sequences)
    pairs = zip(found.logits, expected.logits, strict=True)
    assert all(apart(one, other) < TOLERANCE[torch.float32] for one, other in pairs)
    assert len(calls) > 18
