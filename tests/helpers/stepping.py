"""Small models of every family whose blocks take single tokens in two calls."""

import copy
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from bitplan.apply import pack_layer
from bitplan.cache import pack_caches
from bitplan.compress import render
from bitplan.models import find_layers, weight_of
from bitplan.one_token import step_by_step
from bitplan.schema import Kind, Scheme

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "llama, biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama, wide heads": LlamaConfig(**SIZES, head_dim=24),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "mistral, window": MistralConfig(**SIZES, sliding_window=6),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "smollm3": SmolLM3Config(**SIZES, no_rope_layers=[1, 0]),
    "granite": GraniteConfig(
        **SIZES, residual_multiplier=0.3, attention_multiplier=0.4, embedding_multiplier=5
    ),
    "gemma2": Gemma2Config(
        **SIZES, head_dim=32, sliding_window=6, query_pre_attn_scalar=9, attn_logit_softcapping=0.7
    ),
    "gemma3": Gemma3TextConfig(
        **SIZES,
        head_dim=32,
        sliding_window=6,
        query_pre_attn_scalar=9,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "phi3": Phi3Config(**SIZES),
    "phi3, partly rotated": Phi3Config(
        **SIZES,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        },
    ),
    "olmo2": Olmo2Config(**SIZES),
    "olmo3": Olmo3Config(**SIZES, sliding_window=6),
}
PROMPT = torch.arange(3, 11).view(1, -1)
# RMS(difference) / RMS(logits): measured, and doubled.
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 4e-2}


def packed_model(family="llama", schemes=("int3g32", "int4g64"), dtype=torch.float32) -> Any:
    """A random model whose linears have these schemes, one after the other; all steps its own."""
    config = FAMILIES[family]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter += torch.randn_like(parameter) * 0.1
        else:
            parameter *= 5
    model.to(dtype)
    chosen = [Scheme.parse(name) for name in schemes]
    layers = [layer for layer in find_layers(model) if layer.kind is Kind.LINEAR]
    for at, layer in enumerate(layers):
        scheme = chosen[at % len(chosen)]
        weight = weight_of(model, layer).float()
        pack_layer(model, layer, render(weight, [scheme], quantizer="rtn")[scheme])
    return model


def both(*args, **keywords) -> tuple[Any, Any]:
    """A model whose blocks are transformers', and the same whose blocks take single tokens."""
    theirs = packed_model(*args, **keywords)
    return theirs, step_by_step(copy.deepcopy(theirs))


def with_packed_caches(models: tuple[Any, Any], keys: str, values: str) -> tuple[Any, Any]:
    for model in models:
        schemes = {}
        for layer in range(model.config.num_hidden_layers):
            path = f"model.layers.{layer}.self_attn"
            schemes |= {f"{path}.keys": Scheme.parse(keys), f"{path}.values": Scheme.parse(values)}
        pack_caches(model, schemes, context=24)
    return models


@torch.no_grad()
def logits_of(model: Any, steps: int = 10, prompt: Tensor = PROMPT, **more) -> Tensor:
    """Of so many tokens after a prompt, given one at a time."""
    found = model(prompt, use_cache=True, **more)
    cache, logits = found.past_key_values, []
    mask = more.get("attention_mask")
    for token in range(steps):
        inputs = torch.full((len(prompt), 1), 20 + token)
        if mask is not None:
            mask = torch.cat([mask, torch.ones(len(prompt), 1, dtype=mask.dtype)], 1)
        found = model(inputs, past_key_values=cache, use_cache=True, attention_mask=mask)
        logits.append(found.logits)
    return torch.cat(logits, 1)


def apart(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


def counted(method: Any, made: list[int]) -> Any:
    def call(*args, **keywords):
        made.append(1)
        return method(*args, **keywords)

    return call
