"""The rows of one model and quantizer, as means over seeds by arm and budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from arms import ARMS
from rows import Row

Cells = dict[tuple[str, float], tuple[float, str]]
"""By arm and bits a number and how it is written."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """All rows of one model and quantizer."""

    model: str
    quantizer: str
    rows: tuple[Row, ...]  # plans alone
    reference: float | None  # the model's own held-out perplexity
    failures: dict[str, str]  # by arm, where nothing else is there

    @classmethod
    def of(cls, rows: Sequence[Row], model: str, quantizer: str) -> "Table":
        """Of all rows those of one place."""
        ours = [row for row in rows if (row["model"], row["quantizer"]) == (model, quantizer)]
        plans = tuple(row for row in ours if "held_out" in row and row["bits"] is not None)
        measured = {row["arm"] for row in plans}
        references = [row["held_out"]["perplexity"] for row in ours if row["arm"] == "reference"]
        return cls(
            model=model,
            quantizer=quantizer,
            rows=plans,
            reference=references[0] if references else None,
            failures={
                row["arm"]: row["failed"]
                for row in ours
                if "failed" in row and row["arm"] not in measured
            },
        )

    @property
    def bits(self) -> list[float]:
        """The budgets, the smallest first."""
        return sorted({row["bits"] for row in self.rows})

    @property
    def arms(self) -> list[str]:
        """Those measured, in the order of `ARMS`."""
        measured = {row["arm"] for row in self.rows}
        return [arm for arm in ARMS if arm in measured]

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len({row["seed"] for row in self.rows})

    @cached_property
    def _cells(self) -> dict[tuple[str, float], list[Row]]:
        cells: dict[tuple[str, float], list[Row]] = {}
        for row in self.rows:
            cells.setdefault((row["arm"], row["bits"]), []).append(row)
        return cells

    def kl(self, arm: str, bits: float, text: str = "held_out") -> float | None:
        """Mean over seeds, of those that the arm was measured on."""
        rows = self._cells.get((arm, bits))
        return float(np.mean([np.mean(row[text]["kl"]) for row in rows])) if rows else None

    def perplexity(self, arm: str, bits: float, text: str = "held_out") -> float | None:
        """Mean over seeds."""
        found = [row[text]["perplexity"] for row in self._cells.get((arm, bits), [])]
        return None if not found or None in found else float(np.mean(found))

    def held_out(self) -> Cells:
        """KL and perplexity."""
        return self._divergences("held_out")

    def other(self) -> Cells:
        """The same on other text."""
        return self._divergences("other")

    def _divergences(self, text: str) -> Cells:
        cells: Cells = {}
        for arm, bits in self._cells:
            kl, perplexity = self.kl(arm, bits, text), self.perplexity(arm, bits, text)
            assert kl is not None
            written = f"{kl:.4f}" + ("" if perplexity is None else f" / {perplexity:.2f}")
            cells[arm, bits] = kl, written + self._fewer(arm, bits)
        return cells

    def _fewer(self, arm: str, bits: float) -> str:
        """Says so where an arm has not been measured on every seed."""
        count = len(self._cells[arm, bits])
        return "" if count == self.seeds else f" ({count} of {self.seeds} seeds)"

    def gains(self) -> Cells:
        """Expected and measured gain over uniform."""
        cells: Cells = {}
        for (arm, bits), (expected, measured) in self.gain_pairs.items():
            written = "–" if expected is None else f"{expected:.0%}"
            cells[arm, bits] = measured, f"{written} / {measured:.0%}"
        return cells

    @property
    def gain_pairs(self) -> dict[tuple[str, float], tuple[float | None, float]]:
        """By arm and bits, over the seeds on which the uniform plan was measured, too."""
        uniform = {
            (row["seed"], row["bits"]): np.mean(row["held_out"]["kl"])
            for row in self.rows
            if row["arm"] == "uniform"
        }
        pairs = {}
        for (arm, bits), rows in self._cells.items():
            known = [row for row in rows if (row["seed"], bits) in uniform]
            if arm == "uniform" or not known:
                continue
            measured = [
                1 - np.mean(row["held_out"]["kl"]) / uniform[row["seed"], bits] for row in known
            ]
            expected = [row["gain"] for row in known]
            mean = None if None in expected else float(np.mean(expected))
            pairs[arm, bits] = mean, float(np.mean(measured))
        return pairs

    def cost(self, arm: str) -> tuple[float | None, float, float]:
        """Mean seconds (None: not known), mean tokens, least share of the budget that was used."""
        rows = [row for row in self.rows if row["arm"] == arm]
        seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
        return (
            float(np.mean(seconds)) if seconds else None,
            float(np.mean([row["tokens"] for row in rows])),
            min(row["bytes"] / row["budget_bytes"] for row in rows),
        )

    def best(self, arms: Sequence[str], bits: float) -> str | None:
        """Of some arms the one of least KL."""
        found = {arm: kl for arm in arms if (kl := self.kl(arm, bits)) is not None}
        return min(found, key=lambda arm: found[arm]) if found else None

    def ratio(self, arm: str, other: str, bits: float) -> tuple[float, float] | None:
        """KL of an arm over another's on the seeds of both, and its standard error.

        The error is that of the paired difference, over sequences.
        """
        ours, theirs = (
            {row["seed"]: row["held_out"]["kl"] for row in self._cells.get((name, bits), [])}
            for name in (arm, other)
        )
        shared = sorted(ours.keys() & theirs.keys())
        if not shared:
            return None
        our_kl = np.mean([ours[seed] for seed in shared], axis=0)  # [sequences]
        their_kl = np.mean([theirs[seed] for seed in shared], axis=0)
        error = np.std(our_kl - their_kl, ddof=1) / len(our_kl) ** 0.5
        return float(our_kl.mean() / their_kl.mean()), float(error / their_kl.mean())
