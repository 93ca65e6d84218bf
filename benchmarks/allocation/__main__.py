"""Allocations side by side: the same weights, bytes and judge; only who gets which bits differs.

    python benchmarks/allocation [--models smollm2 minilm PATH] [--quantizers gptq rtn]
        [--seeds 0 1 2] [--bits 2.5 3 3.5 4 4.5] [--arms NAME ...] [--search-tokens N]
        [--workdir DIR] [--out docs] [--report]

One byte model costs all plans, one quantizer renders all. Peers are installed with pip into
environments of their own in the work folder, and score there; see `peers.py`. Rows are kept in the
work folder as they are measured, and the same command goes on where it was. With `--out` a table, a
plot and the rows are written there; `--report` makes them of the rows that there are.
"""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from arms import ARMS, SEARCHES, Bench
from ground import Ground
from heuristics import NoPlan
from models import Subject, subject_of
from peer_environment import PeerError
from report import write_report
from rows import Row, Rows

from bitplan.evaluate import Divergence
from bitplan.schema import Plan

BITS = (2.5, 3.0, 3.5, 4.0, 4.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/allocation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["smollm2", "minilm"])
    parser.add_argument("--quantizers", nargs="+", default=["gptq", "rtn"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--bits", nargs="+", type=float, default=BITS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--search-tokens", type=int, default=12_500, help="of a search at 1x")
    parser.add_argument("--workdir", type=Path, default=Path("bitplan-allocation"))
    parser.add_argument("--out", type=Path, help="folder for table, plot and rows")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    folder = args.workdir.resolve()
    rows = Rows(path=folder / "rows.jsonl")
    if not args.report:
        for model in args.models:
            subject = subject_of(model)
            for quantizer in args.quantizers:
                for seed in args.seeds:
                    wanted = (subject.name, quantizer, seed)
                    _measure(rows, subject, wanted, args, folder)
    write_report(list(rows), args.out)


def _measure(
    rows: Rows,
    subject: Subject,
    place: tuple[str, str, int],
    args: argparse.Namespace,
    folder: Path,
) -> None:
    """All that lacks of one model, quantizer and seed."""
    _, quantizer, seed = place
    known = rows.known()
    lacking = [(arm, bits) for arm in args.arms for bits in args.bits]
    lacking = [(arm, bits) for arm, bits in lacking if (*place, bits, arm) not in known]
    if not lacking:
        return
    print(f"{subject.name}, {quantizer}, seed {seed}: {len(lacking)} plans to measure", flush=True)
    searches = any(arm in SEARCHES for arm, _ in lacking)
    work = folder / "work"
    with Ground.opened(subject, quantizer, seed, work, searches=searches) as ground:
        if (*place, None, "reference") not in known:
            rows.append(_reference(ground))
        bench = Bench(ground=ground, folder=folder, search_tokens=args.search_tokens)
        for arm, bits in lacking:
            row = _row(bench, arm, bits)
            rows.append(row)
            _tell(row)


def _row(bench: Bench, arm: str, bits: float) -> Row:
    ground = bench.ground
    row = _key(ground, arm, bits)
    try:
        made = ARMS[arm](bench, bits)
    except (PeerError, NoPlan) as error:
        return row | {"failed": str(error)}
    plan = ground.plan(made.assignment, bits, arm)
    return row | {
        "budget_bytes": plan.budget_bytes,
        "bytes": plan.bytes,
        "predicted_kl": plan.predicted_kl,
        "gain": made.gain,
        "seconds": made.seconds,
        "tokens": made.tokens,
        "widths": _widths(ground, plan),
        "held_out": _told(ground.judge.measure(plan.schemes, "held_out")),
        "other": _told(ground.judge.measure(plan.schemes, "other")),
    }


def _reference(ground: Ground) -> Row:
    sets = ("held_out", "other")
    return _key(ground, "reference", None) | {
        name: {"perplexity": ground.judge.reference(name).perplexity} for name in sets
    }


def _key(ground: Ground, arm: str, bits: float | None) -> Row:
    return {
        "model": ground.subject.name,
        "quantizer": ground.quantizer,
        "seed": ground.seed,
        "bits": bits,
        "arm": arm,
    }


def _widths(ground: Ground, plan: Plan) -> str:
    """A digit for each compressed layer in the model's order, its bits; f: as it is."""
    schemes = [plan.schemes[layer.name] for layer in ground.layers]
    return "".join("f" if scheme.is_float else f"{scheme.bits}" for scheme in schemes)


def _told(found: Divergence) -> dict[str, object]:
    nll = None if found.nll is None else _short(found.nll)
    return {"kl": _short(found.kl), "nll": nll, "perplexity": found.perplexity}


def _short(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _tell(row: Row) -> None:
    name = f"{row['bits']} bits, {row['arm']}"
    if "failed" in row:
        print(f"{name}: {row['failed']}", flush=True)
        return
    kl = [sum(row[part]["kl"]) / len(row[part]["kl"]) for part in ("held_out", "other")]
    size = "" if row["bytes"] <= row["budget_bytes"] else ", OVER BUDGET"
    print(
        f"{name}: KL {kl[0]:.4f}, on other text {kl[1]:.4f}, perplexity "
        f"{row['held_out']['perplexity'] or float('nan'):.2f}, {row['bytes']:,} bytes{size}",
        flush=True,
    )


if __name__ == "__main__":
    main()
