"""What a scheme for every expert is worth, at equal bytes, beside one for all of a tensor's.

No mixture of experts small enough to be compressed many times on a CPU can be had from the package
index. So one is trained here, on bytes of the Wikipedia summaries of `bitplan.models.fetch`: a
Mixtral of 6 layers with 8 experts of 256 x 384, 2 for each token. It takes some ten minutes, is
kept in the work folder, and is no model that anyone would use: what matters here is how its tokens
choose experts.

    python benchmarks/experts.py [--bits 2.5 3.0 3.5] [--steps 1000] [--workdir DIR] [--json FILE]

Bits a weight count everything that a layer stores; the embedding and the head stay as they are.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from bitplan import Budget
from bitplan.allocator import solve
from bitplan.calibration import TokenSets
from bitplan.models import demo_documents, fetch
from bitplan.names import EXPERTS
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.judge import Judge
from bitplan.pipeline.stages import measure_in
from bitplan.schema import CostTable

LENGTH = 256
BATCH = 4
RATE = 2e-3
PINS = {"*embed_tokens": "bf16", "lm_head": "bf16"}
CONFIG = MixtralConfig(
    vocab_size=256,
    hidden_size=256,
    intermediate_size=384,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=8,
    num_experts_per_tok=2,
    max_position_embeddings=512,
    output_router_logits=True,
    bos_token_id=None,
    eos_token_id=None,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=float, nargs="+", default=[2.5, 3.0, 3.5])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--workdir", type=Path, default=Path("bitplan-experts"))
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    args = parser.parse_args()
    documents = demo_documents(fetch())
    learned, judged = (
        torch.tensor(list("\n\n".join(half).encode()))
        for half in (documents[: len(documents) // 2], documents[len(documents) // 2 :])
    )
    folder = args.workdir / f"model-{args.steps}"
    if not (folder / "config.json").is_file():
        trained(learned, args.steps).save_pretrained(folder)
    found = [_table(folder, experts, learned, judged, args.workdir) for experts in EXPERTS]
    rows: list[dict[str, Any]] = []
    print("| bits a weight | experts | predicted KL | measured KL | schemes of a tensor |")
    print("|---|---|---|---|---|")
    for bits in args.bits:
        for experts, (table, judge) in zip(EXPERTS, found, strict=True):
            rows.append({"bits": bits, "experts": experts} | _row(table, judge, bits))
            print("| " + " | ".join(map(str, rows[-1].values())) + " |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def trained(tokens: Tensor, steps: int) -> MixtralForCausalLM:
    """A model that has seen so many batches; what it says of the last ones is printed."""
    torch.manual_seed(0)
    model = MixtralForCausalLM(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    losses = []
    for batch, _ in zip(_batches(tokens), range(steps), strict=False):
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if len(losses) % 100 == 0:
            print(f"step {len(losses)}: {sum(losses[-100:]) / 100:.3f} nats a byte", flush=True)
    return model.bfloat16().eval()


def _batches(tokens: Tensor) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    while True:
        starts = torch.randint(len(tokens) - LENGTH, (BATCH,), generator=generator)
        yield torch.stack([tokens[start : start + LENGTH] for start in starts])


def _table(
    folder: Path, experts: str, learned: Tensor, judged: Tensor, workdir: Path
) -> tuple[CostTable, Judge]:
    sets = TokenSets(
        calibration=learned[: 32 * LENGTH].view(32, LENGTH),
        search=judged[-32 * LENGTH :].view(32, LENGTH),
        held_out=judged[: 32 * LENGTH].view(32, LENGTH),
        source="bytes of Wikipedia summaries",
    )
    settings = Settings(
        calibration=sets, estimator="gradient_covariance", experts=experts, workdir=workdir
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    workspace = Workspace.open(model, experts=experts, workdir=workdir)
    table, meter, tokens = measure_in(workspace, settings)
    return table, Judge(workspace=workspace, meter=meter, tokens={"held_out": tokens.held_out})


def _row(table: CostTable, judge: Judge, bits: float) -> dict[str, Any]:
    kept = [row for row in table.rows if row.layer.name in ("model.embed_tokens", "lm_head")]
    weights = sum(row.layer.parameters for row in table.rows if row not in kept)
    others = table.rest_bytes + sum(2 * row.layer.parameters for row in kept)
    plan = solve(table, Budget(bytes=int(bits * weights / 8) + others), pins=PINS)
    by_tensor: dict[str, set[str]] = {}
    for choice in plan.choices:
        if choice.layer.kind == "experts":
            by_tensor.setdefault(choice.layer.parameter, set()).add(str(choice.scheme))
    with judge.borrowed():
        found = judge.measure(plan.schemes, "held_out")
    return {
        "predicted_kl": f"{plan.predicted_kl:.2g}",
        "kl": f"{found.mean:.2g} ± {found.standard_error:.1g}",
        "schemes": round(sum(map(len, by_tensor.values())) / len(by_tensor), 1),
    }


if __name__ == "__main__":
    main()
