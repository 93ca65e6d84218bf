"""A model as llm-compressor renders it: its linears, dequantized, as safetensors.

Runs in an environment of its own, see `compress_peers.py`; nothing of bitplan is there. What
is not named is its default.

    python peer_llmcompressor.py MODEL_FOLDER TOKENS.safetensors OUT.safetensors
        --method gptq --bits 4 --group 128
    ... --method sparsegpt|wanda --structure 0:0|2:4
"""

# llm-compressor is not there where this is checked.
# pyright: reportMissingImports=false

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

SPARSITY = 0.5


def recipe_of(args: argparse.Namespace) -> Any:
    """What is done to all linears but the head."""
    shared = {"targets": ["Linear"], "ignore": ["lm_head"]}
    if args.method == "gptq":
        weights = {"num_bits": args.bits, "type": "int", "symmetric": False}
        weights |= {"strategy": "group", "group_size": args.group}
        groups = {"all": {"targets": shared["targets"], "weights": weights}}
        return GPTQModifier(config_groups=groups, ignore=shared["ignore"])
    modifier = {"sparsegpt": SparseGPTModifier, "wanda": WandaPruningModifier}[args.method]
    return modifier(sparsity=SPARSITY, mask_structure=args.structure, **shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("tokens", help="safetensors with `tokens` [sequences, length]")
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", choices=["gptq", "sparsegpt", "wanda"], required=True)
    parser.add_argument("--bits", type=int)
    parser.add_argument("--group", type=int)
    parser.add_argument("--structure", default="0:0")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokens = load_file(args.tokens)["tokens"]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    rows = {"input_ids": tokens.tolist(), "attention_mask": torch.ones_like(tokens).tolist()}
    oneshot(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(args.model),
        dataset=Dataset.from_dict(rows),
        recipe=recipe_of(args),
        num_calibration_samples=len(tokens),
        max_seq_length=tokens.shape[1],
        shuffle_calibration_samples=False,
    )
    weights = {
        f"{name}.weight": module.weight.detach().float().contiguous()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    save_file(weights, args.out)


if __name__ == "__main__":
    main()
