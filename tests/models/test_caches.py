"""Which keys and values a model caches, against what its attention really hands to a cache."""

import pytest
import torch
from torch import Tensor, nn

from bitplan.errors import InputError
from bitplan.models import (
    describe,
    find_caches,
    hooked_caches,
    next_token_logits,
    rounded_caches,
    why_no_cache,
)
from bitplan.schema import Kind, Scheme

CACHING = ["llama", "gpt2", "mixtral", "gpt-oss", "llama4", "gemma", "gemma-window"]


def tokens_for(length: int = 20) -> Tensor:
    return torch.randint(3, 96, (2, length), generator=torch.Generator().manual_seed(1))


SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
# By what tells their caches apart: model and config class, arguments, and [blocks with a cache].
ODD: dict[str, tuple[str, str, dict, list[int]]] = {
    "latent": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **SIZES,
            "num_key_value_heads": 4,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 6,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
        [0, 1],
    ),
    "one head of keys": (
        "FalconForCausalLM",
        "FalconConfig",
        {k: v for k, v in SIZES.items() if "key_value" not in k},
        [0, 1],
    ),
    "layers that share": (
        "Gemma3nForCausalLM",
        "Gemma3nTextConfig",
        {
            **SIZES,
            "head_dim": 8,
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": 96,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "intermediate_size": [48] * 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "activation_sparsity_pattern": [0.0] * 4,
        },
        [0, 1],
    ),
    "beside state spaces": (
        "JambaForCausalLM",
        "JambaConfig",
        {
            **SIZES,
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 4,
            "num_experts": 2,
        },
        [1, 3],
    ),
    "under an eye": (
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        {
            "text_config": {"model_type": "llama", **SIZES},
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 8,
                "patch_size": 4,
            },
            "image_token_id": 95,
        },
        [0, 1],
    ),
}


def odd(name: str) -> nn.Module:
    import transformers

    model_class, config_class, arguments, _ = ODD[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**arguments)
    return getattr(transformers, model_class)(config).eval()


@pytest.mark.parametrize("name", [*CACHING, *ODD])
def test_rows_are_those_that_attention_caches(name, tiny_model):
    model = odd(name) if name in ODD else tiny_model(name)
    blocks = ODD[name][3] if name in ODD else [0, 1]
    tokens, seen = tokens_for(), {}

    def look(cached: str, rows: Tensor) -> Tensor:
        seen[cached] = tuple(rows.shape)
        return rows

    dense = next_token_logits(model, tokens)
    with hooked_caches(model, look):
        hooked = next_token_logits(model, tokens)
    found = find_caches(model, context=20, batch=2)
    assert seen == {c.layer.name: (2, 20, c.layer.shape[1]) for c in found}
    assert [c.layer.kind for c in found] == [Kind.KEYS, Kind.VALUES] * 2
    assert [c.layer.block for c in found] == [block for block in blocks for _ in range(2)]
    assert all(c.layer.shape[1] % c.head_dim == 0 for c in found)
    assert torch.equal(dense, hooked)


def test_names_are_those_of_the_attention_modules(tiny_model):
    names = [c.layer.name for c in find_caches(tiny_model("gpt2"), context=4)]
    assert names[:2] == ["transformer.h.0.attn.keys", "transformer.h.0.attn.values"]
    [keys, *_] = find_caches(tiny_model("llama"), context=4, batch=3)
    assert keys.layer.name == "model.layers.0.self_attn.keys"
    assert keys.layer.shape == (12, 16)  # two of four heads of 8: grouped queries
    assert keys.head_dim == 8


@pytest.mark.parametrize(("context", "kept"), [(3, 3), (5, 5), (6, 5), (40, 5)])
def test_a_sliding_layer_keeps_no_more_than_its_window(context, kept, tiny_model):
    model = tiny_model("gemma-window")
    found = find_caches(model, context=context, batch=2)
    assert [c.layer.shape[0] for c in found] == [2 * kept] * 2 + [2 * context] * 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mamba", "MambaForCausalLM keeps a state of one size"),
        ("bert", "BertModel does not generate"),
        ("t5", "T5ForConditionalGeneration caches its encoder's output"),
    ],
)
def test_a_model_without_such_a_cache_says_why(name, reason, tiny_model):
    model = tiny_model(name)
    said = why_no_cache(model)
    assert said is not None
    assert said.startswith(reason)
    assert said.count(".") == 1
    assert find_caches(model, context=20) == ()
    description = describe(model, context=20)
    assert description.no_cache == said
    assert description.bytes == describe(model).bytes


def test_a_module_that_is_no_transformer_says_why():
    assert why_no_cache(nn.Linear(2, 2)) == (
        "Linear does not generate, so it caches no keys and values."
    )


def test_a_context_longer_than_the_model_reads_is_refused(tiny_model):
    with pytest.raises(InputError, match="context is 65 tokens, but the model reads at most 64"):
        find_caches(tiny_model("llama"), context=65)


@pytest.mark.parametrize("name", CACHING)
def test_rounding_changes_what_is_named_alone_and_leaves_no_trace(name, tiny_model):
    model = tiny_model(name)
    tokens = tokens_for()
    dense = next_token_logits(model, tokens)
    found = find_caches(model, context=20)
    changes = []
    for bits in (2, 4, 8):
        with rounded_caches(model, {found[-1].layer.name: Scheme.parse(f"int{bits}g32")}):
            rounded = next_token_logits(model, tokens)
        changes.append((rounded - dense).abs().mean().item())
    assert changes[0] > changes[1] > changes[2] > 0
    with rounded_caches(model, {c.layer.name: Scheme.parse("fp32") for c in found}):
        assert torch.equal(next_token_logits(model, tokens), dense)
    assert torch.equal(next_token_logits(model, tokens), dense)


def test_an_error_within_leaves_the_model_as_it_was(tiny_model):
    model = tiny_model("llama")
    before = dict(vars(model))

    def fail(name: str, rows: Tensor) -> Tensor:
        raise ArithmeticError(name)

    with pytest.raises(ArithmeticError, match="keys"), hooked_caches(model, fail):
        next_token_logits(model, tokens_for())
    next_token_logits(model, tokens_for())
    assert vars(model) == before
    assert not model._forward_pre_hooks


def test_a_description_counts_the_cache_when_asked(tiny_model):
    model = tiny_model("llama", torch.bfloat16)
    alone, both = describe(model), describe(model, context=40, batch=2)
    cache = 2 * 2 * 80 * 16 * 2  # layers, keys and values, tokens, width, bytes
    assert alone.caches == ()
    assert alone.no_cache is None
    assert sum(stored.bytes for stored in both.caches) == cache
    assert both.bytes == alone.bytes + cache
    assert both.largest_bytes == alone.largest_bytes + cache
    # 2 bits: 4 bytes of codes, 4 of scale and offset a token.
    assert both.smallest_bytes == alone.smallest_bytes + 2 * 2 * 80 * 8
    assert both.parameters == alone.parameters
