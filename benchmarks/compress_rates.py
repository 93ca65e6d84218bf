"""How fast weights are rounded, packed, unpacked and decoded: `benchmarks/compress.py rates`."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from row_files import machine

from bitplan.compress import render
from bitplan.formats.codes import pack_codes, unpack_codes
from bitplan.schema import Scheme

INTEGERS = [f"int{bits}g64" for bits in range(2, 9)]
CODEBOOKS = ["nf4g64", "mxfp4", "ternaryg64", "fp8g64", "bitmod4g64"]
SPARSE = ["int4g64+2:4", "int4g64+50%"]


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
    script = Path(__file__).with_name("compress.py")
    command = [sys.executable, str(script), "rates", "--json", *map(str, options)]
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
