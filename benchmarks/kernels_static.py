"""Static costs of the Triton kernels, and a roofline made of them: docs/kernels_gpu.json and .md.

    python benchmarks/kernels_static.py [SCHEME ...] [--workdir DIR]

Compiles for devices that are not there, and reads the machine code. Nothing here is measured on a
GPU: the times are a model's. gemlite is compiled beside ours, in an environment of its own that is
kept in the folder.
"""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import triton
from kernels_static_page import page
from kernels_static_peer import measure_peer

from bitplan.kernels.gpu.ahead import (
    LOOKUPS,
    MIXTURES,
    TABLE,
    TARGETS,
    case_of,
    compile_ahead,
    compile_lookup_ahead,
    experts_case_of,
)
from bitplan.kernels.gpu.ahead_several import (
    TOGETHER,
    TOGETHER_TOKENS,
    compile_several_ahead,
    weights_of,
)
from bitplan.kernels.gpu.layout import panel_of
from bitplan.kernels.gpu.machine_code import cost, whole_cost
from bitplan.schema import Scheme

DOCS = Path(__file__).parents[1] / "docs"


def measure(names: list[str]) -> list[dict]:
    kernels = []
    for name in names:
        for tokens in TABLE[name]:
            for target in TARGETS:
                case = case_of(Scheme.parse(name), tokens, target)
                kernel, panel = compile_ahead(case, target), panel_of(case.scheme)
                found = cost(kernel, target, case.blocks.rows, panel)
                kernels.append(
                    {
                        "target": target,
                        "scheme": name,
                        "tokens": tokens,
                        "dtype": case.dtype,
                        "blocks": asdict(case.blocks),
                        **asdict(found),
                    }
                )
                print(kernels[-1], flush=True)
    return kernels


def measure_lookups() -> list[dict]:
    return [
        {
            "target": target,
            "scheme": name,
            "dtype": "bf16",
            **whole_cost(compile_lookup_ahead(Scheme.parse(name), target), target),
        }
        for name in LOOKUPS
        for target in TARGETS
    ]


def measure_experts() -> list[dict]:
    kernels = []
    for name, tokens in ((n, m) for n in MIXTURES for m in MIXTURES[n]):
        for target in TARGETS:
            kernel = compile_ahead(experts_case_of(Scheme.parse(name), tokens, target), target)
            named = {"target": target, "scheme": name, "tokens": tokens, "dtype": "bf16"}
            kernels.append({**named, **whole_cost(kernel, target)})
    return kernels


def measure_together() -> list[dict]:
    kernels = []
    for name, tokens in ((n, m) for n in TOGETHER for m in TOGETHER_TOKENS):
        for target in TARGETS:
            kernel = compile_several_ahead(weights_of(name), tokens, target)
            named = {"target": target, "weights": name, "tokens": tokens, "dtype": "bf16"}
            kernels.append({**named, **whole_cost(kernel, target)})
    return kernels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    text = f"of {', '.join(TABLE)}; default: all. The rows of others stay as they are."
    parser.add_argument("schemes", nargs="*", metavar="SCHEME", help=text)
    parser.add_argument("--workdir", type=Path, default=Path("bitplan-kernels-static"))
    args = parser.parse_args()
    names = args.schemes or list(TABLE)
    if unknown := [name for name in names if name not in TABLE]:
        parser.error(f"{', '.join(unknown)} is not in the table {text}")
    with TemporaryDirectory() as cache:
        os.environ.setdefault("TRITON_CACHE_DIR", cache)
        kernels = measure(names)
        others = {
            "experts": measure_experts(),
            "together": measure_together(),
            "lookups": measure_lookups(),
            "peer": measure_peer(args.workdir),
        }
    path = DOCS / "kernels_gpu.json"
    old = json.loads(path.read_text(encoding="utf-8"))["kernels"] if path.exists() else []
    kernels += [k for k in old if k["scheme"] not in names]
    kernels.sort(
        key=lambda k: (
            list(TABLE).index(k["scheme"]),
            k["tokens"],
            list(TARGETS).index(k["target"]),
        )
    )
    report = {"triton": triton.__version__, "kernels": kernels, **others}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (DOCS / "kernels_gpu.md").write_text(page(report), encoding="utf-8")


if __name__ == "__main__":
    main()
