"""What all arms stand on: one model, one seed, one quantizer; one byte model and one judge."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from activations import Activations
from models import Subject
from progress import told
from texts import at_most, calibration_of, other_text, sets_of

from bitplan import Budget
from bitplan.allocator import plan_of
from bitplan.calibration import TokenSets, tokens_digest
from bitplan.files import write_text
from bitplan.models import load_tokenizer, predicts_next_token
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.evaluator import lessons_of
from bitplan.pipeline.judge import Judge
from bitplan.pipeline.stages import measure_in
from bitplan.pipeline.workspace import kept_scheme
from bitplan.schema import CostTable, Layer, Plan, Scheme
from bitplan.sensitivity import Meter

WIDTHS = (2, 3, 4, 5, 6, 8)
GROUP = 64
SIDE_BITS = 32 / GROUP
"""Bits a weight that the bfloat16 scale and offset of its group take."""
ESTIMATOR = "gradient_covariance"

Assignment = Mapping[str, Scheme]
Losses = Mapping[tuple[str, str], float]
"""What a layer loses in a scheme, by the names of both; whatever unit, as long as it adds up."""


def scheme_of(bits: int) -> Scheme:
    """The integer scheme of a width."""
    return Scheme.parse(f"int{bits}g{GROUP}")


@dataclass(frozen=True, kw_only=True)
class Ground:
    """One model as one quantizer renders it after one calibration sample, and the judge of plans.

    Only linears (and what is like them) are compressed; embeddings stay as they are, as norms do,
    and as what no token reaches.
    """

    subject: Subject
    quantizer: str
    seed: int
    workspace: Workspace
    tokens: TokenSets
    table: CostTable
    meter: Meter
    judge: Judge
    activations: Activations
    seconds: float | None  # of measuring the table; None: a part of it was there before

    @classmethod
    @contextmanager
    def opened(
        cls, subject: Subject, quantizer: str, seed: int, folder: Path, *, searches: bool
    ) -> Iterator["Ground"]:
        """The ground, from the work folder where it is there; weights may be swapped within.

        `searches`: whether the judge knows the search tokens, of which there are many.
        """
        tokenizer = load_tokenizer(subject.source)
        tokens, choice = sets_of(subject.documents, tokenizer, seed)
        workspace = Workspace.open(subject.source, workdir=folder)
        settings = Settings(
            schemes=[*(f"int{bits}g{GROUP}" for bits in WIDTHS), str(kept_scheme(workspace.dtype))],
            calibration=tokens,
            estimator=ESTIMATOR,
            quantizer=quantizer,
            workdir=folder,
        )
        table, meter, tokens, seconds = _measured(workspace, settings)
        activations = Activations.of(workspace, tokens, table, quantizer)
        sets = {"held_out": tokens.held_out, "other": other_text(tokenizer)}
        if subject.longest is not None:
            sets = {name: at_most(subject.longest, each) for name, each in sets.items()}
        if searches:
            sets |= {"search": tokens.search, "choice": choice, "calibration": lessons_of(tokens)}
        if quantizer == "rtn":  # reads no calibration: what is measured is so for every seed
            first = calibration_of(subject.documents, tokenizer, 0)
            kept = workspace.store(tokens_digest(first), quantizer)
        else:
            kept = meter.store
        judge = Judge(
            workspace=workspace,
            meter=replace(meter, store=kept),
            tokens=sets,
            progress=told("judge"),
        )
        with judge.borrowed():
            yield cls(
                subject=subject,
                quantizer=quantizer,
                seed=seed,
                workspace=workspace,
                tokens=tokens,
                table=table,
                meter=meter,
                judge=judge,
                activations=activations,
                seconds=seconds,
            )

    @cached_property
    def layers(self) -> list[Layer]:
        """Those that are compressed, in the model's order."""
        reached = {name for name, _ in self.activations.relative}
        return [row.layer for row in self.table.rows if row.layer.name in reached]

    @cached_property
    def kept(self) -> dict[str, Scheme]:
        """The scheme of every layer as it is."""
        return self.workspace.kept()

    @cached_property
    def pins(self) -> dict[str, Scheme]:
        """What no arm compresses, as it is."""
        ours = {layer.name for layer in self.layers}
        return {name: scheme for name, scheme in self.kept.items() if name not in ours}

    @property
    def predicts_text(self) -> bool:
        """Whether there is a perplexity."""
        return predicts_next_token(self.workspace.model)

    def budget(self, bits: float) -> Budget:
        """Bytes of the whole model with its linears at so many bits, their scales beside them."""
        weights = sum(layer.parameters for layer in self.layers)
        return Budget(bytes=self.size_of({}) + round(weights * (bits + SIDE_BITS) / 8))

    def size_of(self, assignment: Assignment) -> int:
        """Bytes of the whole model, without the compressed layers that have no scheme yet."""
        whole = {**self.pins, **assignment}
        return self.table.rest_bytes + sum(map(self.bytes_of, whole, whole.values()))

    def bytes_of(self, layer: str, scheme: Scheme) -> int:
        """Bytes of a layer in a scheme, by the byte model that all arms share."""
        return self._bytes[layer, str(scheme)]

    @cached_property
    def losses(self) -> dict[tuple[str, str], float]:
        """Our own, in nats per token."""
        return {(r.layer.name, str(c.scheme)): c.loss for r in self.table.rows for c in r.costs}

    @cached_property
    def _bytes(self) -> dict[tuple[str, str], int]:
        return {(r.layer.name, str(c.scheme)): c.bytes for r in self.table.rows for c in r.costs}

    def plan(self, assignment: Assignment, bits: float, arm: str) -> Plan:
        """An assignment of the compressed layers with our bytes and our prediction."""
        budget = self.budget(bits).total_bytes
        whole = {**self.pins, **assignment}
        return plan_of(self.table, whole, budget_bytes=budget, solver=arm, status="")

    def scored(self, losses: Losses) -> CostTable:
        """Our table of bytes with other losses; a scheme that has none cannot be chosen."""
        rows = []
        for row in self.table.rows:
            name = row.layer.name
            if name in self.pins:
                rows.append(row)
                continue
            costs = [
                cost.model_copy(update={"loss": losses[key]})
                for cost in row.costs
                if (key := (name, str(cost.scheme))) in losses
            ]
            rows.append(row.model_copy(update={"costs": tuple(costs)}))
        return self.table.model_copy(update={"rows": tuple(rows)})


def _measured(
    workspace: Workspace, settings: Settings
) -> tuple[CostTable, Meter, TokenSets, float | None]:
    """The table and all, and the seconds that it took when nothing was there."""
    assert isinstance(settings.calibration, TokenSets)
    folder = workspace.statistics(settings.calibration, "data").folder
    clock = folder / f"seconds-{settings.quantizer}.json"
    is_fresh, start = not folder.is_dir(), time.perf_counter()
    table, meter, tokens = measure_in(workspace, settings, told("measure"))
    if is_fresh:
        write_text(clock, json.dumps(time.perf_counter() - start))
    return table, meter, tokens, json.loads(clock.read_text()) if clock.is_file() else None
