"""A constraint on a table, resolved: which layers, which schemes, how much; named as it was given.

Rules are independent of one another: without one, the others say what they said before. So a
conflict can be narrowed down by leaving them out one at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from bitplan.allocator.limit import Unit

Amounts: TypeAlias = Mapping[str, Mapping[str, int]]
"""Layer -> scheme -> whole steps of a unit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cap:
    """The most that layers may take of something: all together, or each alone."""

    amounts: Amounts
    most: int
    unit: Unit


@dataclass(frozen=True, kw_only=True, eq=False)
class Rule:
    """One constraint; each of its parts may be empty."""

    name: str  # in the caller's words
    allowed: Mapping[str, frozenset[str]] = field(default_factory=dict)  # layer -> schemes
    joined: Sequence[tuple[str, ...]] = ()  # layers that share one scheme
    cap: Cap | None = None  # of all layers together
    each: Cap | None = None  # of each layer alone: `allowed` says the same
    most_schemes: int | None = None
    left_out: frozenset[str] | None = None  # layers: they are `none` where that is free, no others


def each_within(name: str, cap: Cap) -> Rule:
    """The rule that every layer alone keeps to a cap."""
    allowed = {
        layer: frozenset(scheme for scheme, amount in schemes.items() if amount <= cap.most)
        for layer, schemes in cap.amounts.items()
    }
    return Rule(name=name, allowed=allowed, each=cap)


def smallest_conflict(
    rules: Sequence[Rule], can_hold: Callable[[Sequence[Rule]], bool]
) -> tuple[Rule, ...]:
    """Of rules that cannot hold together, some that cannot either, but could without any one.

    A deletion filter (Chinneck and Dravnieks 1991, "Locating minimal infeasible constraint sets in
    linear programs"): each is left out for good where the others still cannot hold.
    """
    kept = list(rules)
    for rule in rules:
        others = [other for other in kept if other is not rule]
        if not can_hold(others):
            kept = others
    return tuple(kept)


def groups_of(names: Sequence[str], rules: Sequence[Rule]) -> list[tuple[str, ...]]:
    """Names that share one scheme, together; groups and names in alphabetical order."""
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for rule in rules:
        for joined in rule.joined:
            for name in joined[1:]:
                first, second = sorted((root(joined[0]), root(name)))
                parent[second] = first
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(root(name), []).append(name)
    return [tuple(group) for group in groups.values()]
