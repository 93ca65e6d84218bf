"""Plans, curves and differences by the solver's process."""

import json

import pytest

from bitplan import CostTable, Plan, frontier, solve
from bitplan.allocator import Constraints, uniform
from service_api import problem, table_of


def ask(api, table, budget_gb, **more):
    return api("POST", "/v1/plans", json={"table": table, "budget_gb": budget_gb, **more})


@pytest.mark.parametrize("budget_gb", [4.2e-5, 6e-5, 9e-5, 1.0])
def test_a_plan_is_the_librarys(api, table, budget_gb):
    answer = ask(api, table, budget_gb, time_limit_s=5).json()
    assert Plan.from_json(json.dumps(answer["plan"])) == solve(table_of(12), budget_gb)
    assert answer["changes"] is None
    assert answer["digest"] is None


def test_constraints(api, table):
    pins = {"blocks.3.*": "int8s"}
    answer = ask(api, table, 6e-5, constraints={"pins": pins, "floors": {"blocks.4.*": 4.0}})
    plan = Plan.from_json(json.dumps(answer.json()["plan"]))
    given = Constraints(pins=pins, floors={"blocks.4.*": 4.0})
    assert plan == solve(table_of(12), 6e-5, constraints=given)
    problem(ask(api, table, 6e-5, constraints={"pins": {"nope.*": "int8s"}}), 422, "nope")


def test_what_cannot_be_solved(api, table):
    told = problem(ask(api, table, 1e-6), 422, "the smallest plan needs")
    assert told["type"].endswith("InfeasibleError")
    problem(ask(api, table, 1e-4, solver="guess"), 422, "no solver 'guess'")
    problem(ask(api, "0" * 64, 1e-4), 404, "no table")


def test_a_saved_plan_can_be_fetched_compared_and_applied(api, table):
    saved = ask(api, table, 6e-5, save=True).json()
    digest = saved["digest"]
    fetched = api("GET", f"/v1/plans/{digest}")
    assert fetched.headers["etag"] == f'"{digest}"'
    assert Plan.from_json(fetched.text) == solve(table_of(12), 6e-5)
    assert digest in api("GET", "/v1/plans").text
    again = api("GET", f"/v1/plans/{digest}", headers={"If-None-Match": f'"{digest}"'})
    assert again.status_code == 304
    other = ask(api, table, 9e-5, against=digest).json()
    diff = api("POST", "/v1/plans/diff", json={"a": digest, "b": other["plan"]}).json()
    assert len(diff["changed"]) == other["changes"] > 0
    assert diff["bytes"] == [saved["plan"]["bytes"], other["plan"]["bytes"]]
    assert diff["loss"][1] < diff["loss"][0]
    apply = {"kind": "apply", "model": "tiny", "plan": digest}
    assert api("POST", "/v1/jobs", json={"parameters": apply}).status_code == 201
    problem(ask(api, table, 6e-5, against="0" * 64), 404, "no plan")


def test_the_frontier_is_the_librarys(api, table):
    found = api("POST", "/v1/frontier", json={"table": table, "points": 9}).json()
    plans = frontier(table_of(12), points=9)
    assert [(one["bytes"], one["loss"]) for one in found["points"]] == [
        (plan.bytes, plan.predicted_kl) for plan in plans
    ]
    assert {one["scheme"] for one in found["uniform"]} == {
        plan.solver.removeprefix("uniform ") for plan in uniform(table_of(12))
    }
    assert found["points"][0]["bits"] < found["points"][-1]["bits"] == 16.0
    assert found["measured"] == []


def test_tables_are_listed_and_fetched(api, table):
    (entry,) = api("GET", "/v1/tables").json()["tables"]
    assert (entry["digest"], entry["layers"], entry["model"]) == (table, 12, "made up")
    assert CostTable.from_json(api("GET", f"/v1/tables/{table}").text) == table_of(12)


@pytest.mark.parametrize(
    ("asked", "status"),
    [("bytes=x", 400), ("lines=1-2", 400), ("bytes=5-2", 400), ("bytes=999999999-", 416)],
)
def test_ranges_that_cannot_be_had(api, table, asked, status):
    answer = api("GET", f"/v1/tables/{table}", headers={"Range": asked})
    told = problem(answer, status, "Range")
    assert told["status"] == status
    if status == 416:
        assert answer.headers["content-range"].startswith("bytes */")
    part = api("GET", f"/v1/tables/{table}", headers={"Range": "bytes=1-4"})
    assert (part.status_code, len(part.content)) == (206, 4)
