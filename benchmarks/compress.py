"""How fast weights are compressed, and how well: by format, and by quantizer.

    python benchmarks/compress.py rates      # MB/s of float32 weights, on one core
    python benchmarks/compress.py quality    # SmolLM2-135M, its linears in one scheme
    python benchmarks/compress.py quality --quantizers gptq --schemes int3g64 bitmod3g64 ternary2g64

`rates` times rounding to nearest with packing (`encode`), packing and unpacking of codes alone, and
`decode`, in turns; a row has the median and the quartiles. Processor time is counted: on a machine
that does other work what is long is put off again and again. With `--baseline DIR`, a checkout of
another version, that is timed in the same run, in rounds that alternate.

`quality` renders linears by each quantizer: half of tr(dW H dW') a token, by which all that read H
predict the loss, summed over layers, and its share of what zeros would lose; then KL and perplexity
on held-out tokens of the model with these weights; and the bits that a weight takes, with all that
is stored. Text and sizes are those of `bitplan demo`. Rows
are kept in a file, a JSON object a line, and what is there is not measured again. `--layers` takes
patterns as `*.layers.1?.*`, and `--judge loss` leaves the model out. `--transforms` are folded into
the model first, and the statistics gathered anew; the reference is the model without them, and with
`--schemes bf16` what folding alone does. `--untie` gives the head a weight of its own, as it is, so
that "hadamard" can rotate the residual stream, too. With `--tune-epochs` what a quantizer
gives is tuned on the calibration tokens, those of the search say when to stop, and no loss is
given; `--quantizers quantease --tune-epochs 8` is what the effort `high` does.
"""

import argparse
from pathlib import Path

import torch
from compress_quality import ARMS, SCHEMES, run_quality
from compress_rates import CODEBOOKS, INTEGERS, SPARSE, run_rates

from bitplan.compress import NONE, TRANSFORMS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(required=True)
    rates = parts.add_parser("rates")
    rates.add_argument("--schemes", nargs="+", default=INTEGERS + CODEBOOKS + SPARSE)
    rates.add_argument("--shape", type=int, nargs=2, default=(1024, 4096))
    rates.add_argument("--rounds", type=int, default=5)
    rates.add_argument("--repeats", type=int, default=5, help="in each round")
    rates.add_argument("--baseline", type=Path, help="a checkout of another version")
    rates.add_argument("--json", action="store_true", help="the times of one round, for --baseline")
    rates.add_argument("--out", type=Path, help="keep the rows here, as JSON")
    rates.set_defaults(run=run_rates)
    quality = parts.add_parser("quality")
    quality.add_argument("--schemes", nargs="+", default=SCHEMES)
    quality.add_argument("--quantizers", nargs="+", default=list(ARMS), choices=ARMS)
    quality.add_argument("--transforms", nargs="+", default=[NONE], choices=TRANSFORMS)
    quality.add_argument("--untie", action="store_true")
    quality.add_argument("--layers", nargs="+", default=["*"])
    quality.add_argument("--tune-epochs", type=float, default=0, help="of one quantizer, by the KL")
    quality.add_argument("--judge", choices=["kl", "loss"], default="kl")
    quality.add_argument("--workdir")
    quality.add_argument("--out", type=Path, default=Path("compress_quality.jsonl"))
    quality.set_defaults(run=run_quality)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    args.run(args)


if __name__ == "__main__":
    main()
