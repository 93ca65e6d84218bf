"""The packed cache: its bytes, what attention reads from it, and generation with it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MptConfig, MptForCausalLM

from bitplan.cache import PackedCache, pack_caches
from bitplan.cache.rows import CHUNK, PackedRows
from bitplan.errors import InputError
from bitplan.footprint import scheme_bytes
from bitplan.formats import round_rows
from bitplan.models import find_caches, next_token_logits, rounded_caches
from bitplan.schema import Scheme

MODELS = ["llama", "gpt2", "mixtral", "gemma", "gemma-window", "gpt-oss", "llama4"]
MENU = ("int8g32", "int4g32", "int2", "int3s", "bf16")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
# RMS(difference) / RMS(logits): sums of other lengths round otherwise, and a code that this tips
# over moves by a whole step. Rounding itself makes a difference of 0.03 to 0.25.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def tokens_for(length: int, sequences: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 96, (sequences, length), generator=generator)


def packed(model: nn.Module, *names: str, context: int = 40) -> Any:
    """Keys and values in turn in the schemes of these names."""
    schemes = {
        cached.layer.name: Scheme.parse(names[turn % len(names)])
        for turn, cached in enumerate(find_caches(model, context=context))
    }
    return pack_caches(model, schemes, context=context)


def generate(model: Any, tokens: Tensor, **settings: Any) -> Any:
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0} | settings
    mask = torch.ones_like(tokens)
    return model.generate(tokens, attention_mask=mask, return_dict_in_generate=True, **settings)


@DTYPES
@pytest.mark.parametrize("context", [3, 17, 40])
@pytest.mark.parametrize("name", MODELS)
def test_after_its_context_a_cache_takes_what_the_byte_model_says(name, context, dtype, tiny_model):
    model = packed(tiny_model(name, dtype), *MENU, context=context)
    expected = sum(
        scheme_bytes(cached.layer.shape, Scheme.parse(MENU[turn % len(MENU)]))
        for turn, cached in enumerate(find_caches(model, context=context, batch=2))
    )
    tokens = tokens_for(context)
    at_once, one_by_one = model.new_cache(), model.new_cache()
    assert isinstance(at_once, PackedCache)
    assert at_once.nbytes == 0
    model(input_ids=tokens, past_key_values=at_once)
    for token in tokens.split(1, dim=1):
        model(input_ids=token, past_key_values=one_by_one)
    assert at_once.nbytes == one_by_one.nbytes == expected
    assert at_once.get_seq_length() == one_by_one.get_seq_length() == context


@DTYPES
@pytest.mark.parametrize("name", MODELS)
def test_token_by_token_it_says_what_rounding_in_one_pass_says(name, dtype, tiny_model):
    tokens = tokens_for(20)
    dense = tiny_model(name, dtype)
    schemes = {
        cached.layer.name: Scheme.parse(MENU[turn % len(MENU)])
        for turn, cached in enumerate(find_caches(dense, context=20))
    }
    with rounded_caches(dense, schemes):
        rounded = next_token_logits(dense, tokens)
    model = packed(tiny_model(name, dtype), *MENU, context=20)
    assert torch.equal(next_token_logits(model, tokens), rounded)
    cache = model.new_cache()
    parts = [tokens[:, :7], *tokens[:, 7:].split(1, dim=1)]
    steps = torch.cat([model(input_ids=p, past_key_values=cache).logits for p in parts], dim=1)
    difference = (steps.float() - rounded.float()).square().mean().sqrt()
    assert difference <= TOLERANCE[dtype] * rounded.float().square().mean().sqrt()


@pytest.mark.parametrize("name", MODELS)
def test_a_cache_in_the_models_own_dtype_changes_nothing(name, tiny_model):
    tokens = tokens_for(8)
    model = tiny_model(name)
    plain = generate(model, tokens, max_new_tokens=30, output_logits=True)
    kept = generate(packed(model, "fp32"), tokens, max_new_tokens=30, output_logits=True)
    assert isinstance(kept.past_key_values, PackedCache)
    assert torch.equal(plain.sequences, kept.sequences)
    for one, two in zip(plain.logits, kept.logits, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_at_8_bits_generation_stays_close(name, tiny_model):
    tokens = tokens_for(8)
    model = tiny_model(name)
    plain = generate(model, tokens, output_logits=True)
    close = generate(packed(model, "int8g32"), tokens, output_logits=True)
    far = generate(packed(model, "int2g32"), tokens, output_logits=True)
    assert isinstance(close.past_key_values, PackedCache)

    def kl(found: Any) -> float:
        # Of the first new token: later ones follow other texts once one differs.
        log_q, log_p = found.logits[0].log_softmax(-1), plain.logits[0].log_softmax(-1)
        return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())

    assert kl(close) < 1e-3
    assert kl(close) < kl(far) / 20


def test_beams_batches_and_sampling_go_through_it(tiny_model):
    model, plain = packed(tiny_model("llama"), "fp32"), tiny_model("llama")
    for settings in (
        {"num_beams": 3, "max_new_tokens": 10},
        {"num_beams": 2, "num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 2},
    ):
        tokens = tokens_for(8, sequences=1 if "prompt_lookup_num_tokens" in settings else 2)
        found, wanted = generate(model, tokens, **settings), generate(plain, tokens, **settings)
        assert torch.equal(found.sequences, wanted.sequences)
        assert isinstance(found.past_key_values, PackedCache)


def test_a_caller_who_wants_another_cache_or_none_gets_it(tiny_model):
    from transformers import DynamicCache, GenerationConfig

    model, tokens = packed(tiny_model("llama"), "int2"), tokens_for(8)
    plain = generate(tiny_model("llama"), tokens).sequences
    own = DynamicCache(config=model.config)
    assert torch.equal(generate(model, tokens, past_key_values=own).sequences, plain)
    assert own.get_seq_length() == 19
    none = GenerationConfig(use_cache=False, max_new_tokens=12, pad_token_id=0)
    assert torch.equal(model.generate(tokens, none, attention_mask=tokens > 0), plain)
    static = generate(model, tokens, cache_implementation="dynamic")
    assert not isinstance(static.past_key_values, PackedCache)


def test_a_model_that_caches_only_when_told_to_is_told(tiny_model):
    config = MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=96, max_seq_len=64)
    torch.manual_seed(0)
    model, tokens = MptForCausalLM(config).eval(), tokens_for(8)
    plain = generate(model, tokens, output_logits=True)
    assert plain.past_key_values is None
    kept = generate(packed(model, "fp32"), tokens, output_logits=True)
    assert isinstance(kept.past_key_values, PackedCache)
    assert kept.past_key_values.get_seq_length() == 19
    assert torch.equal(plain.sequences, kept.sequences)
    for one, two in zip(plain.logits, kept.logits, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    model.generation_config.use_cache = False
    assert generate(model, tokens).past_key_values is None


def test_a_copy_of_a_model_has_its_own_cache(tiny_model):
    model = packed(tiny_model("llama"), "int8g32")
    copied = copy.deepcopy(model)
    assert copied.new_cache.__self__ is copied
    assert copied.generate.__self__ is copied
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert generate(copied, tokens_for(8)).sequences[:, 8:].any()


def test_storage_grows_in_chunks_beyond_its_context():
    scheme = Scheme.parse("int4s")
    rows = PackedRows(scheme, context=10)
    data = torch.randn(2, 2 * CHUNK + 3, 16, generator=torch.Generator().manual_seed(0))
    held = []
    for part in data.split([4, 6, 1, CHUNK, CHUNK - 8], dim=1):
        rows.append(part)
        held.append(rows.tensors["codes"].shape[1])
    assert held == [10, 10, CHUNK, 2 * CHUNK, 3 * CHUNK]
    assert rows.length == 2 * CHUNK + 3
    assert torch.equal(rows.read(torch.float32), round_rows(data, scheme))


def test_a_cache_can_be_cropped_repeated_selected_and_reset(tiny_model):
    model, tokens = packed(tiny_model("llama"), "int4g32", "int8g32"), tokens_for(20)
    logits = model(input_ids=tokens, past_key_values=model.new_cache()).logits
    cache = model.new_cache()
    model(input_ids=tokens[:, :15], past_key_values=cache)
    cache.crop(-5)
    assert cache.get_seq_length() == 10
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([2, 0]))
    rest = model(input_ids=tokens[[1, 0], 10:], past_key_values=cache).logits
    torch.testing.assert_close(rest, logits[[1, 0], 10:], rtol=1e-3, atol=1e-3)
    cache.reset()
    assert cache.nbytes == cache.get_seq_length() == 0
    again = model(input_ids=tokens, past_key_values=cache).logits
    torch.testing.assert_close(again, logits)


def test_a_window_that_forgot_cannot_be_cropped(tiny_model):
    model = packed(tiny_model("gemma-window"), "int8g32")
    cache = model.new_cache()
    model(input_ids=tokens_for(5), past_key_values=cache)
    assert cache.is_croppable
    model(input_ids=tokens_for(3), past_key_values=cache)
    assert not cache.is_croppable
    cache.crop(0)
    with pytest.raises(InputError, match="cannot be cropped by -1 after 8 tokens"):
        cache.crop(-1)
