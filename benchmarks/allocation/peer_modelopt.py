"""What ModelOpt's `auto_quantize` scores every group of linears at every width, as JSON.

Runs in an environment of its own, see `peers.py`; nothing of bitplan is there.

    python peer_modelopt.py MODEL_FOLDER TOKENS.safetensors OUT.json
        --method gradient | kl_div --sequences N --bits 2 3 ... --group G
"""

# ModelOpt is not there where this is checked.
# pyright: reportMissingImports=false

import argparse
import json
import time
from pathlib import Path

import modelopt.torch.quantization as mtq
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

BATCH = 2


def weights_only(bits: int, group: int) -> dict:
    """The format of weights in groups along the row; activations stay as they are."""
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {
                "quantizer_name": "*weight_quantizer",
                "cfg": {"num_bits": bits, "block_sizes": {-1: group}},
                "enable": True,
            },
        ],
        "algorithm": "max",
    }


def count_tokens() -> list[int]:
    """A counter of the tokens that go through any embedding from now on."""
    counter = [0]

    def count(module: nn.Module, args: tuple) -> None:
        if isinstance(module, nn.Embedding):
            counter[0] += args[0].numel()

    nn.modules.module.register_module_forward_pre_hook(count)
    return counter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("tokens")
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", choices=("gradient", "kl_div"), required=True)
    parser.add_argument("--sequences", type=int, required=True)
    parser.add_argument("--bits", type=int, nargs="+", required=True)
    parser.add_argument("--group", type=int, required=True)
    args = parser.parse_args()
    tokens = load_file(args.tokens)["tokens"][: args.sequences]
    batches = list(tokens.split(BATCH))
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    asked = {
        "gradient": {
            "forward_step": lambda model, batch: model(input_ids=batch, labels=batch),
            "loss_func": lambda output, batch: output.loss,
        },
        "kl_div": {"forward_step": lambda model, batch: model(input_ids=batch).logits},
    }
    counter, start = count_tokens(), time.perf_counter()
    _, state = mtq.auto_quantize(
        model,
        # No constraint: of the answer, the scores alone are kept.
        constraints={"effective_bits": 16.0},
        quantization_formats=[weights_only(bits, args.group) for bits in args.bits],
        data_loader=batches,
        disabled_layers=["*lm_head*"],
        num_calib_steps=1,
        num_score_steps=len(batches),
        method=args.method,
        verbose=False,
        **asked[args.method],
    )
    seconds = time.perf_counter() - start
    groups = []
    for stats in state["candidate_stats"].values():
        if len(stats["scores"]) == 1:
            continue  # a disabled layer
        # Formats rise in bits, the last one being none at all.
        assert len(stats["scores"]) == len(args.bits) + 1
        scores = dict(zip(sorted(args.bits), map(float, stats["scores"]), strict=False))
        groups.append({"layers": list(stats["module_names"]), "scores": scores})
    args.out.write_text(
        json.dumps({"seconds": seconds, "tokens": counter[0], "groups": groups}, indent=1)
    )


if __name__ == "__main__":
    main()
