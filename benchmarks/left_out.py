"""Plans that may leave out whole sublayers, beside those that may not, on SmolLM2-135M.

The text is that of `benchmarks/plans.py`: 32 x 256 calibration tokens and 16 x 512 held out. The
embedding is compressed too, and budgets are for the whole model. The table's plan is measured
beside the best one that leaves nothing out and the uniform one; no search.

    python benchmarks/left_out.py [--gigabytes 0.044 0.048] [--schemes int2g64,int3g64,int4g64]
        [--workdir DIR]
"""

import argparse
from pathlib import Path

from bitplan import Plan, allocate
from bitplan.models import fetch
from plans import tokens_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.044, 0.048])
    parser.add_argument("--schemes", default="int2g64,int3g64,int4g64")
    parser.add_argument("--workdir", type=Path, default=Path("bitplan-left-out"))
    args = parser.parse_args()
    files = fetch()
    print("| GB | plan | KL | perplexity |\n|---|---|---|---|")
    for gigabytes in args.gigabytes:
        plan = allocate(
            str(files.gguf),
            gigabytes,
            schemes=[*args.schemes.split(","), "bf16", "none"],
            calibration=tokens_of(files),
            estimator="gradient_covariance",
            quantizer="gptq",
            refine_tokens=0,
            workdir=args.workdir,
        )
        _show(gigabytes, plan)


def _show(gigabytes: float, plan: Plan) -> None:
    assert plan.evidence is not None
    found = (plan.evidence.plan, plan.evidence.uniform, *plan.evidence.others)
    for one in filter(None, found):
        error = f"{one.kl:.3f} ± {one.standard_error:.3f}"
        print(f"| {gigabytes:g} | {one.name} | {error} | {one.perplexity:.2f} |", flush=True)
    gone = [name for name, scheme in plan.schemes.items() if scheme.is_none]
    print(f"  {gigabytes:g} GB leave out {', '.join(gone) or 'nothing'}")


if __name__ == "__main__":
    main()
