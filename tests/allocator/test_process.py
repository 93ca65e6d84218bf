"""What only a fresh process can show: imports, and the same bytes again."""

import subprocess
import sys

import pytest

MAKE_PLANS = """
import numpy as np
from bitplan.allocator import frontier, solve
from bitplan.schema import Budget, Cost, CostTable, Kind, Layer, Provenance, Row, Scheme

rng = np.random.default_rng(5)
bits = {"int2g64": 2, "int3g64": 3, "int4g64": 4, "int6g64": 6, "int8": 8, "bf16": 16}
rows = []
for index in range(60):
    scale, weights = rng.lognormal(-4, 1.5), int(rng.choice([4096, 16384, 24576]))
    costs = tuple(
        Cost(
            scheme=Scheme.parse(name),
            bytes=weights * b // 8,
            loss=round(scale * 4.0**-b, 5),
            standard_error=0.0,
        )
        for name, b in bits.items()
    )
    layer = Layer(name=f"layer{index}", kind=Kind.LINEAR, shape=(weights // 64, 64))
    rows.append(Row(layer=layer, costs=costs))
provenance = Provenance(
    model="tiny", model_digest="m", dtype="bfloat16", calibration="text", calibration_digest="c",
    calibration_tokens=64, estimator="given", quantizer="rtn", seed=0, versions={},
)
table = CostTable(provenance=provenance, rest_bytes=7, rows=tuple(rows))
plans = [solve(table, Budget(bytes=450_000), solver=name) for name in ("cp_sat", "lagrangian")]
text = "".join(plan.to_json() for plan in [*plans, *frontier(table, points=8)])
"""


def run(program: str, *, hash_seed: str = "0") -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONHASHSEED": hash_seed, "PYTHONSAFEPATH": "1"},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_same_bytes_again_also_in_other_processes() -> None:
    # The losses are rounded, so that many plans tie.
    here: dict = {}
    exec(MAKE_PLANS, here)
    again: dict = {}
    exec(MAKE_PLANS, again)
    assert again["text"] == here["text"]
    assert '"solver": "cp_sat"' in here["text"]
    for seed in ("1", "2"):
        assert run(MAKE_PLANS + "print(text, end='')", hash_seed=seed) == here["text"]


def test_the_allocator_loads_no_tensors() -> None:
    run(
        MAKE_PLANS
        + "import sys\n"
        + "loaded = {'torch', 'transformers', 'triton', 'cvxpy'} & set(sys.modules)\n"
        + "assert not loaded, loaded\n"
    )


@pytest.mark.parametrize("first", ["ortools", "cvxpy"])
def test_ortools_and_cvxpy_share_a_process(first: str) -> None:
    # Both carry a copy of HiGHS; of some versions whichever comes second cannot be loaded.
    ortools = (
        "from ortools.sat.python import cp_model\ncp_model.CpSolver().solve(cp_model.CpModel())"
    )
    cvxpy = (
        "import cvxpy as cp\nx = cp.Variable()\n"
        "cp.Problem(cp.Minimize(x), [x >= 1]).solve(solver=cp.HIGHS)\n"
        "assert abs(x.value - 1) < 1e-6"
    )
    programs = [ortools, cvxpy] if first == "ortools" else [cvxpy, ortools]
    # cvxpy itself warns, of what does not concern us.
    run("import warnings\nwarnings.simplefilter('ignore')\n" + "\n".join(programs))
