"""One walk over a model: what gets a scheme, and what is left. Shared storage is counted once."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from bitplan.models.classify import Slot, Why, canonical_weight, classify
from bitplan.schema import Kind


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A weight that gets a scheme: the slot that names it and the others that share its storage."""

    slot: Slot
    kind: Kind
    shape: tuple[int, ...]
    tied: tuple[str, ...]

    @property
    def name(self) -> str:
        """Path of the module; for experts, of the parameter."""
        return _name(self.slot, self.kind)


@dataclass(frozen=True, kw_only=True)
class Left:
    """A tensor that stays as it is."""

    name: str
    tensor: Tensor
    why: Why


@dataclass(frozen=True, kw_only=True)
class Scan:
    """All tensors of a model, each storage once."""

    weights: list[Weight] = field(default_factory=list)
    rest: list[Left] = field(default_factory=list)


def scan(model: nn.Module) -> Scan:
    """Sort a model's parameters and buffers, in the order in which the model registers them."""
    groups: dict[Hashable, list[Slot]] = {}
    for slot in _slots(model):
        groups.setdefault(_storage(slot.tensor), []).append(slot)
    found = Scan()
    for slots in groups.values():
        match _sort_group(slots):
            case Weight() as weight:
                found.weights.append(weight)
            case Left() as left:
                found.rest.append(left)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        key = _storage(buffer)
        if key not in groups:
            groups[key] = []
            found.rest.append(Left(name=name, tensor=buffer, why=Why.BUFFER))
    return found


def _slots(model: nn.Module) -> Iterator[Slot]:
    for path, module in model.named_modules(remove_duplicate=False):
        lineage = _lineage(model, path)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield Slot(path=path, name=name, tensor=parameter, lineage=lineage)


def _lineage(model: nn.Module, path: str) -> tuple[nn.Module, ...]:
    lineage = [model]
    for part in path.split(".") if path else []:
        lineage.append(getattr(lineage[-1], part))
    return tuple(lineage)


def _sort_group(slots: list[Slot]) -> Weight | Left:
    """One storage: a weight if every module that holds it can hold it packed, else left alone."""
    verdicts = [classify(slot) for slot in slots]
    kinds = [verdict for verdict in verdicts if isinstance(verdict, Kind)]
    if len(kinds) == len(slots):
        # A table of embeddings gives its name to what is tied to it.
        first = kinds.index(Kind.EMBEDDING) if Kind.EMBEDDING in kinds else 0
        views = [canonical_weight(s.module, s.name, k) for s, k in zip(slots, kinds, strict=True)]
        if all(view.shape == views[first].shape for view in views):
            names = [_name(slot, kind) for slot, kind in zip(slots, kinds, strict=True)]
            return Weight(
                slot=slots[first],
                kind=kinds[first],
                shape=tuple(views[first].shape),
                tied=tuple(names[:first] + names[first + 1 :]),
            )
    reasons = [verdict for verdict in verdicts if isinstance(verdict, Why)]
    why = reasons[0] if len(reasons) == len(slots) else Why.SHARED
    return Left(name=slots[0].full_name, tensor=slots[0].tensor, why=why)


def _name(slot: Slot, kind: Kind) -> str:
    return slot.full_name if kind is Kind.EXPERTS else slot.path


def _storage(tensor: Tensor) -> Hashable:
    """Equal for tensors that are the same memory. Without memory, only a tensor is itself."""
    if tensor.is_meta or tensor.data_ptr() == 0:
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.nbytes
