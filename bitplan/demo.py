"""The whole path on a small real model: what `bitplan demo` runs."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

from bitplan.apply import held_bytes
from bitplan.export import load, save
from bitplan.files import make_folder
from bitplan.models import demo_documents, fetch, load_tokenizer
from bitplan.pipeline import apply_plan, run
from bitplan.progress import Progress, quiet
from bitplan.report import evidence_table, plan_table, write_report
from bitplan.schema import CostTable, Plan

QUESTION = "What is the capital of France?"
NEW_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo made and what it found."""

    folder: Path
    plan: Plan
    table: CostTable
    held_bytes: int
    answer: str

    def to_json(self) -> str:
        """For machines: the plan, where things are, the answer."""
        content = {
            "folder": str(self.folder),
            "held_bytes": self.held_bytes,
            "question": QUESTION,
            "answer": self.answer,
            "plan": json.loads(self.plan.to_json()),
        }
        return json.dumps(content, indent=2)

    def renderables(self) -> Iterable[RenderableType]:
        """For people."""
        return [
            plan_table(self.plan, self.table),
            evidence_table(self.plan),
            self.plan.status,
            "",
            f"The compressed model holds {self.held_bytes:,} bytes; the plan says "
            f"{self.plan.weight_bytes:,}, the budget {self.plan.budget_bytes:,}.",
            f"Asked: {QUESTION}\nIt says: {self.answer}",
            "",
            f"In {self.folder}: plan.json, report.html, and the model in model/.",
        ]


def run_demo(
    folder: str | Path,
    *,
    budget_gb: float,
    offline: bool = False,
    workdir: str | Path | None = None,
    progress: Progress = quiet,
) -> DemoResult:
    """Fetch the demo's model and text, allocate, apply, save, load again and ask a question."""
    folder = make_folder(folder)
    files = fetch(offline=offline, progress=progress)
    tokenizer = load_tokenizer(str(files.gguf))
    outcome = run(
        str(files.gguf),
        budget_gb,
        calibration=demo_documents(files),
        tokenizer=tokenizer,
        workdir=workdir,
        progress=progress,
    )
    plan = outcome.plan
    plan.save(folder / "plan.json")
    outcome.table.save(folder / "costs.json")
    write_report(folder / "report.html", plan, outcome.table)
    table, model = outcome.table, outcome.model
    del outcome  # else the dense weights would stay beside the packed ones
    save(
        apply_plan(model, plan, workdir=workdir, progress=progress),
        folder / "model",
        plan,
        tokenizer=tokenizer,
    )
    del model
    model = load(folder / "model")
    return DemoResult(
        folder=folder,
        plan=plan,
        table=table,
        held_bytes=held_bytes(model),
        answer=_ask(model, tokenizer, progress),
    )


@torch.no_grad()
def _ask(model: Any, tokenizer: Any, progress: Progress) -> str:
    progress("answer", 0, 1)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    progress("answer", 1, 1)
    prompt = inputs["input_ids"].shape[1]
    return tokenizer.decode(output[0, prompt:], skip_special_tokens=True).strip()
