"""Layers that do the same work in every block, taken together: q_proj, k_proj, ..., embedding."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from bitplan.schema import Choice, CostTable, Kind, Layer, Plan


@dataclass(frozen=True, kw_only=True)
class Group:
    """The choices of a plan for the layers of one name. `errors` has one entry a choice."""

    name: str
    choices: tuple[Choice, ...]
    errors: tuple[float, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of layers by scheme name, the most frequent scheme first."""
        counts = Counter(str(choice.scheme) for choice in self.choices)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(choice.layer.parameters for choice in self.choices)

    @property
    def bytes(self) -> int:
        """Codes, scales, offsets and padding."""
        return sum(choice.bytes for choice in self.choices)

    @property
    def bits_per_weight(self) -> float:
        """All stored bits, scales too, over the number of weights."""
        return 8 * self.bytes / self.parameters

    @property
    def loss(self) -> float:
        """Predicted increase of KL, nats per token."""
        return sum(choice.loss for choice in self.choices)

    @property
    def standard_error(self) -> float:
        """Of the loss, at most: the layers were scored on the same tokens, so errors add up."""
        return sum(self.errors)


def group(plan: Plan, table: CostTable | None) -> list[Group]:
    """The plan's layers by name, in the order in which the plan first names them."""
    names = group_names(choice.layer for choice in plan.choices)
    errors = standard_errors(plan, table)
    members: dict[str, list[Choice]] = defaultdict(list)
    for choice in plan.choices:
        members[names[choice.layer.name]].append(choice)
    return [
        Group(
            name=name,
            choices=tuple(choices),
            errors=tuple(errors[choice.layer.name] or 0.0 for choice in choices),
        )
        for name, choices in members.items()
    ]


def whole(groups: Iterable[Group]) -> Group:
    """All groups as one."""
    groups = tuple(groups)
    return Group(
        name="all layers",
        choices=tuple(choice for part in groups for choice in part.choices),
        errors=tuple(error for part in groups for error in part.errors),
    )


def standard_errors(plan: Plan, table: CostTable | None) -> dict[str, float | None]:
    """Standard error of every layer's predicted loss; None where no table has such a cost."""
    costs = {
        (row.layer.name, cost.scheme): cost.standard_error
        for row in (table.rows if table else ())
        for cost in row.costs
    }
    return {
        choice.layer.name: costs.get((choice.layer.name, choice.scheme)) for choice in plan.choices
    }


def group_names(layers: Iterable[Layer]) -> dict[str, str]:
    """Group by layer name.

    A layer's group is the last word of its path, or all of its path inside the block where the
    last word alone is ambiguous: GPT-2 has `attn.c_proj` and `mlp.c_proj`. Numbers in the path,
    such as those of single experts, do not tell groups apart. A lone embedding is `embedding`.
    """
    layers = list(layers)
    paths = {layer.name: _path_in_block(layer) for layer in layers}
    homes: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for path in paths.values():
        homes[path[-1]].add(path)
    names = {
        name: path[-1] if len(homes[path[-1]]) == 1 else ".".join(path)
        for name, path in paths.items()
    }
    embeddings = [layer.name for layer in layers if layer.kind is Kind.EMBEDDING]
    if len(embeddings) == 1:
        names[embeddings[0]] = "embedding"
    return names


def _path_in_block(layer: Layer) -> tuple[str, ...]:
    words = layer.name.split(".")
    if layer.block is not None and str(layer.block) in words:
        words = words[words.index(str(layer.block)) + 1 :]
    named = tuple(word for word in words if not word.isdigit())
    return named or (layer.name,)
