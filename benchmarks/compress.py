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
that "hadamard" can rotate the residual stream, too.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitplan.calibration import Counts, TokenSets, tokens_digest
from bitplan.compress import NONE, QUANTIZERS, TRANSFORMS, render
from bitplan.evaluate import compare, make_reference
from bitplan.footprint import scheme_bytes
from bitplan.formats.codes import pack_codes, unpack_codes
from bitplan.models import demo_documents, fetch, load_model, load_tokenizer, weight_of
from bitplan.pipeline import Workspace, folded_workspace
from bitplan.schema import Kind, Layer, Scheme
from bitplan.sensitivity.moments.shrinkage import shrinkage

Row = dict[str, Any]
INTEGERS = [f"int{bits}g64" for bits in range(2, 9)]
CODEBOOKS = ["nf4g64", "mxfp4", "ternaryg64", "fp8g64", "bitmod4g64"]
SPARSE = ["int4g64+2:4", "int4g64+50%"]
SCHEMES = ["int4g128", "int3g128", "int2g64", "int4g64+50%", "int4g64+2:4"]
COUNTS = Counts(calibration=32, search=8, held_out=16, length=256)

Arm = Callable[[Tensor, Scheme, Tensor, Tensor], Tensor]
"""(a weight, a scheme, H, how far to draw it to its diagonal) -> what the weight becomes"""


def by_ours(
    quantizer: str, weight: Tensor, scheme: Scheme, covariance: Tensor, share: Tensor
) -> Tensor:
    """The weight as one of our quantizers renders it."""
    found = render(weight, [scheme], quantizer=quantizer, covariance=covariance, shrinkage=share)
    return found[scheme].decode()


ARMS: dict[str, Arm] = {name: partial(by_ours, name) for name in QUANTIZERS}


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
    quality.add_argument("--judge", choices=["kl", "loss"], default="kl")
    quality.add_argument("--workdir")
    quality.add_argument("--out", type=Path, default=Path("compress_quality.jsonl"))
    quality.set_defaults(run=run_quality)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    args.run(args)


def run_rates(args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps(times_of(args.schemes, args.shape, args.repeats)))
        return
    versions = {"now": Path(__file__).resolve().parent.parent}
    if args.baseline:
        versions = {"baseline": args.baseline.resolve()} | versions
    times: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(args.rounds):
        for version, root in versions.items():
            for scheme, by_part in _round(args, root).items():
                for part, seconds in by_part.items():
                    times.setdefault((scheme, part, version), []).extend(seconds)
    megabytes = 4 * args.shape[0] * args.shape[1] / 1e6
    rows = []
    print("| scheme | part | version | MB/s, median | quartiles |\n|---|---|---|---|---|")
    for key, seconds in sorted(times.items(), key=lambda item: item[0][:2]):
        low, middle, high = statistics.quantiles([megabytes / s for s in seconds], n=4)
        print(f"| {' | '.join(key)} | {middle:,.0f} | {low:,.0f} - {high:,.0f} |")
        row = dict(zip(("scheme", "part", "version"), key, strict=True))
        rows.append(row | {"MB/s": round(middle), "low": round(low), "high": round(high)})
    if args.out:
        content = {"machine": machine(), "shape": args.shape, "clock": "cpu", "rows": rows}
        args.out.write_text(json.dumps(content, indent=1) + "\n")


def _round(args: argparse.Namespace, root: Path) -> dict[str, dict[str, list[float]]]:
    """One round of a version, in a process of its own."""
    options = ["--schemes", *args.schemes, "--shape", *args.shape, "--repeats", args.repeats]
    command = [sys.executable, __file__, "rates", "--json", *map(str, options)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def times_of(
    names: list[str], shape: tuple[int, int], repeats: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each part for each scheme; a first run of each is not counted."""
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.05
    found: dict[str, dict[str, list[float]]] = {}
    for scheme in map(Scheme.parse, names):
        packed = render(weight, [scheme], quantizer="rtn")[scheme]
        contenders: dict[str, Callable[[], Any]] = {
            "encode": partial(render, weight, [scheme], quantizer="rtn"),
            "decode": packed.decode,
        }
        if scheme.sparsity is None:
            codes = unpack_codes(scheme, packed.tensors["codes"], shape[1]).contiguous()
            contenders["pack"] = partial(pack_codes, scheme, codes)
            contenders["unpack"] = partial(unpack_codes, scheme, packed.tensors["codes"], shape[1])
        found[str(scheme)] = {part: [] for part in contenders}
        for turn in range(1 + repeats):
            for part, run in contenders.items():
                start = time.process_time()
                run()
                if turn:
                    taken = max(time.process_time() - start, 1e-7)  # nothing is done for 8 bits
                    found[str(scheme)][part].append(taken)
    return found


def run_quality(args: argparse.Namespace) -> None:
    shared = {"layers": sorted(args.layers), "judge": args.judge, "untied": args.untie}
    names = ("transform", "scheme", "quantizer")
    arms = product(args.transforms, args.schemes, args.quantizers)
    asked = [shared | dict(zip(names, arm, strict=True)) for arm in arms]
    known = {key_of(row) for row in rows_in(args.out)}
    for transform in args.transforms:
        rows = [row for row in asked if row["transform"] == transform and key_of(row) not in known]
        if rows:
            _measure(args, transform, rows)
    keys = {key_of(row) for row in asked}
    show([row for row in rows_in(args.out) if key_of(row) in keys])


def _measure(args: argparse.Namespace, transform: str, rows: list[Row]) -> None:
    """Measure rows of one transform, one after another."""
    workspace, tokens = _open(args)
    reference = make_reference(workspace.model, tokens.held_out) if args.judge == "kl" else None
    workspace = folded_workspace(
        workspace,
        transform,
        calibration_digest=tokens_digest(tokens.calibration),
        tokens_of=lambda: tokens,
        seed=0,
    )
    meter = workspace.meter(tokens, estimator="gradient_covariance", quantizer="gptq")
    layers = [
        layer
        for layer in workspace.layers
        if layer.kind is Kind.LINEAR
        and layer.name != "lm_head"
        and any(fnmatch(layer.name, one) for one in args.layers)
    ]
    for row in rows:
        scheme, arm = Scheme.parse(row["scheme"]), ARMS[row["quantizer"]]
        size = sum(scheme_bytes(layer.shape, scheme) for layer in layers)
        row |= {"bits": 8 * size / sum(layer.parameters for layer in layers)}
        with restored(workspace.model, layers):
            found = row | _losses(workspace.model, layers, meter, scheme, arm)
            if reference is not None:
                one = compare(workspace.model, reference)
                found |= {"kl": one.mean, "kl_error": one.standard_error}
                found |= {"perplexity": one.perplexity}
        append(args.out, found | {"machine": machine()})


def _open(args: argparse.Namespace) -> tuple[Workspace, TokenSets]:
    files = fetch()
    source = str(files.gguf)
    if args.untie:
        model: Any = load_model(source)
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), False)
        model.config.tie_word_embeddings = False
        tokenizer = load_tokenizer(source)
        workspace = Workspace.open(model, workdir=args.workdir, tokenizer=tokenizer)
    else:
        workspace = Workspace.open(source, workdir=args.workdir)
    return workspace, workspace.tokens(demo_documents(files), counts=COUNTS, seed=0)


def _losses(model: Any, layers: list[Layer], meter: Any, scheme: Scheme, arm: Arm) -> Row:
    """Put each layer's weight into the model as an arm makes it, and say what that should cost."""
    loss = of_zeros = seconds = 0.0
    for layer in layers:
        statistics_ = meter.statistics["data"].completed(layer, ("covariance",))
        sums, weight = statistics_["covariance"], weight_of(model, layer)
        covariance, original = sums["covariance"].float(), weight.float()
        start = time.process_time()
        found = arm(original, scheme, covariance, shrinkage(sums))
        seconds += time.process_time() - start
        twice = 2 * statistics_.tokens
        loss += _form(found - original, covariance) / twice
        of_zeros += _form(original, covariance) / twice
        weight.copy_(found)
    return {"loss": loss, "share": loss / of_zeros, "render_s": seconds, "count": len(layers)}


def _form(change: Tensor, covariance: Tensor) -> float:
    return ((change @ covariance) * change).sum().item()


@contextlib.contextmanager
def restored(model: Any, layers: list[Layer]) -> Iterator[None]:
    """Whatever is done to the weights is undone."""
    weights = [weight_of(model, layer) for layer in layers]
    originals = [weight.clone() for weight in weights]
    yield
    for weight, original in zip(weights, originals, strict=True):
        weight.copy_(original)


def key_of(row: Row) -> tuple[Any, ...]:
    transform = row.get("transform", NONE), row.get("untied", False)
    return (*transform, *(row[name] for name in ("scheme", "quantizer", "judge")), *row["layers"])


def rows_in(path: Path) -> Iterator[Row]:
    """What was measured; the last line is no JSON where a run was killed as it wrote."""
    for line in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def append(path: Path, row: Row) -> None:
    is_torn = path.is_file() and not path.read_text().endswith("\n")
    with path.open("a") as file:
        file.write(("\n" if is_torn else "") + json.dumps(row) + "\n")


def machine() -> str:
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.__version__}"


def show(rows: list[Row]) -> None:
    head = "| scheme | bits | quantizer | transform | loss | of zeros | s | KL | perplexity |\n"
    print(head + "|---" * 9 + "|")
    for row in rows:
        transform = row.get("transform", NONE) + (", untied" if row.get("untied") else "")
        bits = f"{row['bits']:.3f}" if "bits" in row else "–"
        cells = [row["scheme"], bits, row["quantizer"], transform]
        cells += [f"{row[name]:.5f}" if name in row else "–" for name in ("loss", "share")]
        cells.append(f"{row['render_s']:.1f}")
        if "kl" in row:
            cells += [f"{row['kl']:.4f} ± {row['kl_error']:.4f}", f"{row['perplexity']:.2f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
