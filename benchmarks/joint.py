"""What a menu is worth at equal bytes: bits, the default menu, sparsity, both, all kinds.

The ground is that of `benchmarks/plans.py`: SmolLM2-135M, all 210 linears, embedding and norms as
they are. At each average of bits a weight, of scales too, every menu gets the same budget.

    python benchmarks/joint.py [--bits 2.5 3.0 3.5] [--menus bits default] [--workdir DIR]
        [--json FILE]

Bits a weight count everything that a layer stores, so 3.0 here is 2.5 in that script's terms.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from bitplan import Budget
from bitplan.allocator import solve
from bitplan.errors import InfeasibleError
from bitplan.footprint import default_schemes
from bitplan.models import fetch
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.judge import Judge
from bitplan.pipeline.stages import measure_in
from bitplan.schema import CostTable, Plan, Scheme
from plans import MENU, tokens_of

BITS = [*MENU, "int2g32"]
SPARSE = [
    *(f"int{bits}g64+2:4" for bits in (2, 3, 4, 5, 6)),
    *(f"int{bits}g64+25%" for bits in (2, 3, 4)),
    *(f"int{bits}g64+50%" for bits in (3, 4)),
    "int8g64+75%",
]
OTHERS = [
    *("bitmod3g64", "bitmod4g64", "nf3g64", "nf4g64", "nvfp4", "mxfp4"),
    *("ternaryg64", "binary2g64", "ternary2g64", "int2g64d", "int3g64d", "int4g64d"),
    *("int2g64+2%int8", "int3g64+2%int8", "int2g64+r16", "int3g64+r16"),
]
MENUS = {
    "bits": BITS,
    "default": list(map(str, default_schemes("bfloat16"))),
    "sparsity of int3": ["int3g64", "int3g64+25%", "int3g64+50%", "int3g64+2:4", "bf16"],
    "bits and sparsity": [*BITS, *SPARSE],
    "all kinds": [*BITS, *SPARSE, *OTHERS],
}
PINS = {"*embed_tokens": "bf16"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=float, nargs="+", default=[2.5, 3.0, 3.5])
    parser.add_argument("--menus", nargs="+", choices=MENUS, default=list(MENUS))
    parser.add_argument("--workdir", type=Path, default=Path("bitplan-joint"))
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    args = parser.parse_args()
    files = fetch()
    names = list(dict.fromkeys(name for menu in args.menus for name in MENUS[menu]))
    settings = Settings(
        schemes=names,
        calibration=tokens_of(files),
        estimator="gradient_covariance",
        workdir=args.workdir,
    )
    workspace = Workspace.open(str(files.gguf), workdir=args.workdir)
    table, meter, tokens = measure_in(workspace, settings)
    judge = Judge(workspace=workspace, meter=meter, tokens={"held_out": tokens.held_out})
    rows: list[dict[str, Any]] = []
    print("| bits a weight | menu | predicted KL | measured KL | perplexity | layers |")
    print("|---|---|---|---|---|---|")
    with judge.borrowed():
        for bits in args.bits:
            for menu in args.menus:
                rows.append(_row(judge, _of(table, MENUS[menu]), bits, menu))
                print(
                    "| {bits} | {menu} | {predicted_kl} | {kl} ± {standard_error} | {perplexity} "
                    "| {layers} |".format(**rows[-1]),
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def _of(table: CostTable, menu: list[str]) -> CostTable:
    """The table of some schemes alone."""
    chosen = set(map(Scheme.parse, menu))
    rows = tuple(
        row.model_copy(update={"costs": tuple(c for c in row.costs if c.scheme in chosen)})
        for row in table.rows
    )
    return table.model_copy(update={"rows": rows})


def _row(judge: Judge, table: CostTable, bits: float, menu: str) -> dict[str, Any]:
    row = {"bits": bits, "menu": menu}
    try:
        plan = solve(table, _budget(table, bits), pins=PINS)
    except InfeasibleError:
        return row | dict.fromkeys(
            ("predicted_kl", "kl", "standard_error", "perplexity", "layers"), "does not fit"
        )
    found = judge.measure(plan.schemes, "held_out")
    return row | {
        "bytes": plan.bytes,
        "predicted_kl": round(plan.predicted_kl, 4),
        "kl": round(found.mean, 4),
        "standard_error": round(found.standard_error, 4),
        "perplexity": round(found.perplexity or 0, 2),
        "layers": _counts(plan),
    }


def _budget(table: CostTable, bits: float) -> Budget:
    size = {row.layer.name: row.layer.parameters for row in table.rows}
    embedding = sum(n for name, n in size.items() if name.endswith("embed_tokens"))
    packed = (sum(size.values()) - embedding) * bits / 8
    return Budget(bytes=round(table.rest_bytes + 2 * embedding + packed))


def _counts(plan: Plan) -> str:
    """Layers by scheme, the most frequent first."""
    counts = Counter(
        str(c.scheme) for c in plan.choices if not c.layer.name.endswith("embed_tokens")
    )
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


if __name__ == "__main__":
    main()
