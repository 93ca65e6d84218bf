"""The whole size/loss curve at once: every breakpoint of its convex hull, as arrays."""

from dataclasses import dataclass

import numpy as np

from bitplan.allocator.hull import Hull, Path
from bitplan.allocator.plan import plan_of
from bitplan.allocator.problem import Problem, Status
from bitplan.schema import CostTable, Plan


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Curve:
    """The lower convex hull of all plans' (bytes, predicted KL), from the smallest to the largest.

    Each point is a plan, and no plan of as few bytes predicts less: at its price it is the least of
    loss + price * bytes. Between two points the line is a lower bound. The plans are nested: each
    gives one row more bytes than the one before.
    """

    table: CostTable
    problem: Problem
    hull: Hull
    bytes: np.ndarray  # [points] int64, of the whole model, rising
    loss: np.ndarray  # [points] float64, nats per token, falling
    price: np.ndarray  # [points] nats per token and byte that the next point saves; 0 at the last

    def __repr__(self) -> str:
        """How far it reaches; the points are too many to print."""
        ends = (
            f"bytes={self.bytes[0]}..{self.bytes[-1]}, loss={self.loss[0]:.4g}..{self.loss[-1]:.4g}"
        )
        return f"Curve(points={len(self.bytes)}, {ends})"

    @classmethod
    def of(cls, table: CostTable, problem: Problem, hull: Hull) -> "Curve":
        """The curve of a problem of a table, whatever its budget, and its hull."""
        path = hull.path
        gain = problem.loss[path.row, _before(path)] - problem.loss[path.row, path.target]
        last = problem.loss_of(hull.last())
        # Added up from the end, where losses are small: subtracted from the start, they cancel.
        loss = np.cumsum(np.append(last, gain[::-1]))[::-1]
        return cls(
            table=table,
            problem=problem,
            hull=hull,
            bytes=np.append(hull.first_bytes, path.bytes_after) + table.rest_bytes,
            loss=loss,
            price=np.append(path.price, 0.0),
        )

    def __len__(self) -> int:
        return len(self.bytes)

    def to_dict(self) -> dict[str, list[float]]:
        """Bytes, predicted KL and nats per GB of every point, as JSON can hold them."""
        return {
            "bytes": self.bytes.tolist(),
            "predicted_kl": self.loss.tolist(),
            "nats_per_gb": (self.price * 1e9).tolist(),
        }

    def plan(self, point: int) -> Plan:
        """The plan of a point, counted from the smallest; its budget is its own bytes."""
        steps = range(len(self))[point]
        choice = self.hull.path.after(steps)
        return plan_of(
            self.table,
            self.problem.assignment(choice),
            budget_bytes=max(int(self.bytes[steps]), 1),
            solver="curve",
            status=Status.OPTIMAL,
            lower_bound=self.problem.loss_of(choice),
        )


def _before(path: Path) -> np.ndarray:
    """The scheme [steps] that each step's row has before it."""
    order = np.argsort(path.row, kind="stable")
    row, target = path.row[order], path.target[order]
    before = np.empty_like(target)
    before[1:] = target[:-1]
    opens = np.append(True, row[1:] != row[:-1])[: row.size]
    before[opens] = path.first[row[opens]]
    result = np.empty_like(before)
    result[order] = before
    return result
