"""All that a plan must keep to beside its budget, in one place."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from bitplan.allocator.bit_range import Bits, ceiling_rules, floor_rules
from bitplan.allocator.limit import number_text
from bitplan.allocator.pins import Pins, check_pins, pin_rules
from bitplan.allocator.resource import AbstractResource
from bitplan.allocator.rules import Cap, Rule, each_within
from bitplan.allocator.wildcards import matching
from bitplan.errors import InputError
from bitplan.runtimes import get_runtime
from bitplan.schema import CostTable, Plan, Row

Ties: TypeAlias = Sequence[str | Sequence[str]]
"""Each a wildcard, or several: all layers that match take one scheme."""


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What a plan must keep to. All of it holds in every plan that is given back, or none is.

    Where several wildcards of one argument match a layer, the last one counts.

    Args:
        pins: layer name or wildcard -> the scheme, or the schemes, that it may take.
        floors: layer name or wildcard -> a scheme, or a number of bits per weight: it gets no fewer
            than that. Bits per weight are 8 x bytes / weights, scales included: 4.5 of `int4g64`.
        ceilings: likewise, no more than that.
        ties: wildcards, or groups of them: all layers that match one take the same scheme.
        fuse: give the layers that runtimes fuse (q, k and v, ...) one scheme.
        most_schemes: at most this many different schemes in the plan.
        runtime: a name of `bitplan.runtimes.RUNTIMES`: none but the schemes that it can load.
        left_out: layers that are left out, as `none`, and no others, where that is free: a layer
            stands for its sublayer. None: the solver chooses.
        limits: what else is limited, as `ReadBytes(most=2e9)`: see `bitplan.allocator.resources`.

    Raises:
        InputError: a number that makes no sense, or an unknown runtime.
    """

    pins: Pins = field(default_factory=dict)
    floors: Mapping[str, Bits] = field(default_factory=dict)
    ceilings: Mapping[str, Bits] = field(default_factory=dict)
    ties: Ties = ()
    fuse: bool = False
    most_schemes: int | None = None
    runtime: str | None = None
    limits: Sequence[AbstractResource] = ()
    left_out: frozenset[str] | None = None

    def __post_init__(self) -> None:
        check_pins(self.pins)
        if self.most_schemes is not None and not (
            isinstance(self.most_schemes, int) and self.most_schemes >= 1
        ):
            raise InputError(
                f"A plan of at most {self.most_schemes!r} schemes was asked for; it needs at "
                "least 1."
            )
        if self.runtime is not None:
            get_runtime(self.runtime)
        if isinstance(self.ties, str):
            raise InputError(f"The ties are the string {self.ties!r}. Give a list of wildcards.")
        for tie in self.ties:
            if not isinstance(tie, str | Sequence):
                raise InputError(f"The tie {tie!r} is no wildcard. Give one, or several in a list.")
        for limit in self.limits:
            if not isinstance(limit, AbstractResource):
                raise InputError(f"{limit!r} limits nothing. Give a limit as AverageBits(most=4).")

    @classmethod
    def of(
        cls,
        constraints: "Constraints | None" = None,
        *,
        pins: Pins | None = None,
        fuse: bool = False,
    ) -> "Constraints":
        """The constraints, with more pins and `fuse`. A pin that both have is refused."""
        given, pins = constraints or cls(), {} if pins is None else pins
        check_pins(pins)
        for pattern in set(given.pins).intersection(pins):
            raise InputError(f"{pattern!r} is pinned twice. Pin it once.")
        return replace(given, pins={**given.pins, **pins}, fuse=given.fuse or fuse)

    @property
    def fixes_nothing(self) -> bool:
        """Whether every scheme of every layer may be in a plan, `fuse` apart."""
        given = (self.pins, self.floors, self.ceilings, self.ties, self.runtime, self.limits)
        return self.most_schemes is None and not any((*given, self.left_out))

    @property
    def before_measuring(self) -> "Constraints":
        """Those that can be told of a model before it is measured."""
        return replace(self, limits=tuple(one for one in self.limits if not one.measured))

    def rules(self, table: CostTable) -> tuple[Rule, ...]:
        """What they say of a table.

        Raises:
            InputError: a wildcard that matches no layer, a limit that the table cannot tell.
            SchemeError: a pin, floor or ceiling that no scheme of a layer meets, a pin that leaves
                out a part of a sublayer.
            TableError: a latency table of another model.
        """
        return (
            *(_limit_rule(table, limit) for limit in self.limits),
            *self._general_rules(table),
            *floor_rules(table, self.floors),
            *ceiling_rules(table, self.ceilings),
            *_tie_rules(table, self.ties),
            *pin_rules(table, self.pins),
        )

    def _general_rules(self, table: CostTable) -> Iterator[Rule]:
        if self.most_schemes is not None:
            plural = "s" if self.most_schemes > 1 else ""
            name = f"at most {self.most_schemes} scheme{plural}"
            yield Rule(name=name, most_schemes=self.most_schemes)
        if self.runtime is not None:
            yield _runtime_rule(table, self.runtime)
        if self.fuse:
            yield Rule(name="fuse", joined=_fused(table.rows))
        if self.left_out is not None:
            yield Rule(name="what is left out", left_out=self.left_out)


def leaving_out(constraints: Constraints, plan: Plan) -> Constraints:
    """The constraints, and no other sublayers left out than those of a plan."""
    names = frozenset(name for name, scheme in plan.schemes.items() if scheme.is_none)
    return replace(constraints, left_out=names)


def _fused(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.layer.fuse:
            groups.setdefault(row.layer.fuse, []).append(row.layer.name)
    return [tuple(group) for group in groups.values()]


def _tie_rules(table: CostTable, ties: Ties) -> Iterator[Rule]:
    names = [row.layer.name for row in table.rows]
    for tie in ties:
        patterns = (tie,) if isinstance(tie, str) else tuple(tie)
        layers = [name for pattern in patterns for name in matching("tie", pattern, names)]
        if layers:
            yield Rule(name=f"the tie {'|'.join(patterns)!r}", joined=[tuple(layers)])


def _runtime_rule(table: CostTable, runtime: str) -> Rule:
    why_not = get_runtime(runtime)
    allowed = {
        row.layer.name: frozenset(
            str(cost.scheme) for cost in row.costs if why_not(row.layer, cost.scheme) is None
        )
        for row in table.rows
    }
    return Rule(name=f"the runtime {runtime}", allowed=allowed)


def _limit_rule(table: CostTable, limit: AbstractResource) -> Rule:
    """A cap on all layers together, or the schemes with which each alone keeps to the limit."""
    unit, amounts = limit.unit(table), limit.amounts(table)
    most = unit.steps(limit.most)
    name = f"at most {number_text(limit.most)} {unit.noun}"
    cap = Cap(amounts=amounts, most=most, unit=unit)
    if limit.largest:
        return each_within(name, cap)
    allowed = {layer: frozenset(schemes) for layer, schemes in amounts.items()}
    return Rule(name=name, allowed=allowed, cap=cap)
