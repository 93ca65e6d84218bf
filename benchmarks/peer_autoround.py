"""A model as AutoRound renders it: its linears, dequantized, as safetensors.

Runs in an environment of its own, see `compress_peers.py`; nothing of bitplan is there. What
is not named is its default.

    python peer_autoround.py MODEL_FOLDER TEXTS.jsonl OUT.safetensors
        --bits 4 --group 128 --sequences N --length L
"""

# AutoRound is not there where this is checked, and what it hashes with is replaced.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import argparse
import itertools
from pathlib import Path

import datasets.fingerprint
import torch

# datasets names what it maps by pickling, which fails for AutoRound's functions under some
# versions. Within one process a number names as well.
_number = itertools.count()
datasets.fingerprint.Hasher.hash = classmethod(lambda cls, value: f"{next(_number):016x}")
datasets.fingerprint.Hasher.update = lambda self, value: None

from auto_round import AutoRound  # noqa: E402
from safetensors.torch import save_file  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("texts", help="JSONL with a field `text`")
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--group", type=int, required=True)
    parser.add_argument("--sequences", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rounding = AutoRound(
        args.model,
        bits=args.bits,
        group_size=args.group,
        sym=False,
        nsamples=args.sequences,
        seqlen=args.length,
        dataset=args.texts,
        device_map="cpu",
    )
    model, _ = rounding.quantize()
    weights = {
        f"{name}.weight": module.weight.detach().float().contiguous()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    save_file(weights, args.out)


if __name__ == "__main__":
    main()
