"""What AutoRound's AutoScheme scores every linear in every option, as JSON.

Runs in an environment of its own, see `peers.py`; nothing of bitplan is there. The scores are taken
where its dynamic program, which is exact, is handed them.

    python peer_autoround.py MODEL_FOLDER TEXTS.jsonl OUT.json
        --sequences N --length L --bits 2 3 ... --group G
"""

# AutoRound is not there where this is checked, and what it hashes with is replaced.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import datasets.fingerprint
import torch
from torch import nn

# datasets names what it maps by pickling, which fails for AutoRound's functions under some
# versions. Within one process a number names as well.
_number = itertools.count()
datasets.fingerprint.Hasher.hash = classmethod(lambda cls, value: f"{next(_number):016x}")
datasets.fingerprint.Hasher.update = lambda self, value: None

from auto_round import AutoRound, AutoScheme  # noqa: E402
from auto_round.auto_scheme import delta_loss  # noqa: E402
from auto_round.schemes import QuantizationScheme  # noqa: E402

TARGET_BITS = 6.0
"""Any that the options can meet: no plan is made."""


class Scored(BaseException):
    """All is scored; carries the scores."""


def stop_at_scores(layers: dict[str, list[tuple]], *_: Any) -> None:
    """Stands in for the dynamic program."""
    raise Scored(layers)


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
    parser.add_argument("texts", help="JSONL with a field `text`")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sequences", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--bits", type=int, nargs="+", required=True)
    parser.add_argument("--group", type=int, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    delta_loss.choose_bits_per_layer_with_path = stop_at_scores
    options = [QuantizationScheme(bits=b, group_size=args.group, sym=False) for b in args.bits]
    counter, start = count_tokens(), time.perf_counter()
    scheme = AutoScheme(
        avg_bits=TARGET_BITS,
        options=options,
        nsamples=args.sequences,
        seqlen=args.length,
        batch_size=4,
    )
    rounding = AutoRound(
        args.model,
        scheme=scheme,
        iters=0,
        nsamples=4,
        seqlen=args.length,
        dataset=args.texts,
        device_map="cpu",
    )
    try:
        rounding.quantize()
    except Scored as found:
        layers = found.args[0]
    else:
        raise SystemExit("AutoScheme made a plan without asking for the one of least loss.")
    groups = [
        {
            "layers": list(choices[0][3]),
            "scores": {args.bits[index]: float(loss) for index, _, loss, _ in choices},
        }
        for choices in layers.values()
    ]
    args.out.write_text(
        json.dumps(
            {"seconds": time.perf_counter() - start, "tokens": counter[0], "groups": groups},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
