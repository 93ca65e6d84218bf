"""Jobs in a store as a worker leaves them, without a worker."""

from collections.abc import Mapping
from typing import Any

from bitplan.allocator import solve, uniform
from bitplan.schema import Budget, CostTable, Evidence, Measured, Plan
from bitplan.service.records import Artefact, Fault, Job, JobRequest, State
from bitplan.service.store import Claim, Store

JSON = "application/json"


class Maker:
    """Submits jobs of one owner and does a worker's part by hand."""

    def __init__(self, store: Store, *, owner: str) -> None:
        self.store, self.owner = store, owner

    def submit(self, *, label: str = "", **parameters: Any) -> Job:
        request = JobRequest.model_validate({"parameters": parameters, "label": label})
        job, _ = self.store.jobs.submit(request, owner=self.owner)
        return job

    def claim(self, job: Job) -> Claim:
        claim = self.store.claims.claim(job.id, "hand")
        assert claim is not None
        return claim

    def put(self, claim: Claim, name: str, content: bytes, media_type: str = JSON) -> str:
        digest = self.store.artefacts.shelf.add(content)
        artefact = Artefact(name=name, digest=digest, bytes=len(content), media_type=media_type)
        self.store.claims.add_artefact(claim, artefact)
        return digest

    def finish(self, claim: Claim, fault: Fault | None = None) -> None:
        assert self.store.claims.finish(claim, State.FAILED if fault else State.SUCCEEDED, fault)

    def planned(
        self,
        table: CostTable,
        *,
        share: float,
        label: str = "",
        files: Mapping[str, bytes] | None = None,
    ) -> str:
        """Id of a job that has succeeded with the best plan of a share of the 16-bit size."""
        largest = table.rest_bytes + sum(max(c.bytes for c in row.costs) for row in table.rows)
        budget = Budget(bytes=int(share * largest))
        plan = solve(table, budget).model_copy(update={"evidence": _evidence(table, budget)})
        job = self.submit(
            kind="allocate", model="/models/tiny", budget_gb=budget.total_bytes / 1e9, label=label
        )
        claim = self.claim(job)
        self.put(claim, "costs.json", table.to_json().encode())
        self.put(claim, "plan.json", plan.to_json().encode())
        for name, content in (files or {}).items():
            self.put(claim, name, content, "application/octet-stream")
        self.finish(claim)
        return job.id

    def plan(self, job_id: str) -> Plan:
        """The plan that a job made."""
        digest = next(a.digest for a in self.store.artefacts.of(job_id) if a.name == "plan.json")
        return Plan.load(self.store.artefacts.path(digest))


def _evidence(table: CostTable, budget: Budget) -> Evidence:
    """As if measuring came to a tenth more than was predicted."""
    plan, best = solve(table, budget), uniform(table, budget)[0]
    return Evidence(
        tokens=4096,
        tokens_digest="t",
        reference_perplexity=10.0,
        plan=_measured("solved", plan),
        uniform=_measured(best.solver, best),
    )


def _measured(name: str, plan: Plan) -> Measured:
    kl = 1.1 * plan.predicted_kl
    return Measured(name=name, bytes=plan.bytes, kl=kl, standard_error=kl / 20, perplexity=11.0)
