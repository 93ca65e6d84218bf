"""Tiny random models, built here: nothing is downloaded."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from torch import nn

from bitplan.models import wide

LLAMA = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {**LLAMA, "num_local_experts": 3, "num_experts_per_tok": 2}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}

CONFIGS: dict[str, tuple[str, str, dict]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "llama-tied": ("LlamaForCausalLM", "LlamaConfig", {**LLAMA, "tie_word_embeddings": True}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", EXPERTS),
    "gpt-oss": ("GptOssForCausalLM", "GptOssConfig", {**EXPERTS, "head_dim": 8, **ROPE}),
    "llama4": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {**EXPERTS, "num_experts_per_tok": 1, "intermediate_size_mlp": 40, "head_dim": 8},
    ),
    "qwen-moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**LLAMA, "moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2},
    ),
    "gemma": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**LLAMA, "head_dim": 8}),
    "gemma-window": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {
            **LLAMA,
            "head_dim": 8,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1},
    ),
    "bert": ("BertModel", "BertConfig", {k: v for k, v in LLAMA.items() if "key" not in k}),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "vocab_size": 96,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 1,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
    ),
}


def build(name: str, dtype: torch.dtype = torch.float32, *, seed: int = 0) -> nn.Module:
    model_class, config_class, arguments = CONFIGS[name]
    config = getattr(transformers, config_class)(**arguments)
    model = getattr(transformers, model_class)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            is_norm = parameter.dim() == 1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15 + is_norm)
    return model.to(dtype).requires_grad_(False)


@pytest.fixture(autouse=True)
def _any_processor(monkeypatch):
    """What bitplan computes is compared with models as torch runs them, whatever it runs on."""
    monkeypatch.setattr(wide, "slow_dtypes", lambda: frozenset[torch.dtype]())


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Tiny matmuls gain nothing from threads, and wait for each other where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_model() -> Callable[..., nn.Module]:
    """A model by its name in `CONFIGS`, in a dtype; the same weights for the same seed."""
    return build


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model in bfloat16, saved as transformers saves it."""
    folders: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("models") / f"tiny-{name}"
            build(name, torch.bfloat16).save_pretrained(folders[name])
        return folders[name]

    return folder_of


WORDS = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", *(f"w{index}" for index in range(92))]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A token a word, of the words in `WORDS`: as many as the models' vocabulary."""
    words = {word: index for index, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", bos_token="[BOS]", eos_token="[EOS]"
    )


@pytest.fixture(scope="session")
def tiny_documents() -> list[str]:
    """60 documents of 30 to 90 words; the first word of each is its number, from w0 on."""
    chance = random.Random(0)
    return [
        " ".join([f"w{number}", *(f"w{chance.randrange(60, 92)}" for _ in range(29 + number))])
        for number in range(60)
    ]
