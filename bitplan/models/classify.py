"""What one parameter is: a weight that gets a scheme, or something that stays as it is, and why."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bitplan.schema import Kind


class Why(StrEnum):
    """Why a tensor stays in full precision."""

    NORM = "norm"
    BIAS = "bias"
    ROUTER = "router"
    POSITION = "position or type embedding"
    CONVOLUTION = "convolution of a kind that is not packed"
    GROUPED = "grouped convolution: its outputs read different inputs"
    OWN_FORWARD = "a layer with a computation of its own"
    READ_BY_PARENT = "read by its parent, never called"
    SHARED = "shared with something that is no layer"
    BUFFER = "buffer"
    OTHER = "other parameter"


@dataclass(frozen=True, kw_only=True, eq=False)
class Slot:
    """One parameter where a model holds it. `lineage` runs from the model down to the holder."""

    path: str
    name: str
    tensor: Tensor
    lineage: tuple[nn.Module, ...]

    @property
    def module(self) -> nn.Module:
        """The module that holds the parameter."""
        return self.lineage[-1]

    @property
    def leaf(self) -> str:
        """The module's own name, within its parent."""
        return self.path.rpartition(".")[2]

    @property
    def full_name(self) -> str:
        """The parameter's path."""
        return f"{self.path}.{self.name}" if self.path else self.name


def classify(slot: Slot) -> Kind | Why:
    """The kind of layer that a parameter is the weight of, or why it is none.

    Routers stay: they are tiny, and an error in one sends tokens to other experts. So do position
    and type embeddings: they are a few rows, and each is added to every token of the model.
    """
    if _is_router(slot):
        return Why.ROUTER
    if isinstance(slot.module, _NORMS) or "Norm" in type(slot.module).__name__:
        return Why.NORM
    if slot.name.endswith("bias"):
        return Why.BIAS
    if isinstance(slot.module, nn.modules.conv._ConvNd):
        return _classify_convolution(slot)
    if not (slot.path and slot.tensor.is_floating_point() and slot.tensor.itemsize >= 2):
        return Why.OTHER
    if slot.name == "weight" and isinstance(slot.module, nn.Embedding):
        return _classify_embedding(slot)
    if slot.name == "weight" and isinstance(slot.module, nn.Linear):
        return _classify_linear(slot)
    if slot.name == "weight" and type(slot.module) is Conv1D:
        return Kind.CONV1D
    if slot.tensor.ndim == 3 and slot.name in _EXPERT_NAMES and _holds_experts(slot.module):
        return Kind.EXPERTS
    return Why.OTHER


def canonical_weight(module: nn.Module, name: str, kind: Kind) -> Tensor:
    """A view of a weight as [out, in], or [experts, out, in], however the module stores it.

    A convolution's is what multiplies its `patches`.
    """
    weight = getattr(module, name).detach()
    if kind is Kind.CONV1D:
        return weight.T
    if kind in CONVOLUTIONS:
        return weight.flatten(1)
    if kind is Kind.EXPERTS and _experts_are_transposed(module):
        return weight.transpose(1, 2)
    return weight


def _classify_embedding(slot: Slot) -> Kind | Why:
    module = slot.module
    if _POSITION.search(slot.leaf) or "Position" in type(module).__name__:
        return Why.POSITION
    # A table that only multiplies its rows by one number (`embed_scale`) is still a table.
    if type(module).forward is nn.Embedding.forward or hasattr(module, "embed_scale"):
        return Kind.EMBEDDING
    return Why.OWN_FORWARD


def _classify_linear(slot: Slot) -> Kind | Why:
    # Statistics are taken where a layer is called; a weight that its parent multiplies by itself
    # would get none. State-space mixers do that to `dt_proj`.
    parent = slot.lineage[-2]
    if isinstance(parent, _READS_ITS_CHILDREN) or slot.leaf == "dt_proj":
        return Why.READ_BY_PARENT
    own_forward = type(slot.module).forward is not nn.Linear.forward
    if own_forward and type(slot.module).__name__ not in _LINEAR_UNDER_ANOTHER_NAME:
        return Why.OWN_FORWARD
    return Kind.LINEAR


def _classify_convolution(slot: Slot) -> Kind | Why:
    module: Any = slot.module
    plain = {nn.Conv1d.forward: Kind.TIMECONV, nn.Conv2d.forward: Kind.CONV2D}
    kind = plain.get(type(module).forward)
    if kind is None or slot.name != "weight" or not _is_matrix(slot.tensor):
        return Why.CONVOLUTION
    # Its matrices would be a few weights long, with a scale each.
    if module.groups > 1:
        return Why.GROUPED
    return kind if module.padding_mode == "zeros" else Why.CONVOLUTION


def _is_matrix(tensor: Tensor) -> bool:
    """Whether a weight can be seen as a matrix without a copy."""
    return tensor.is_contiguous() and tensor.is_floating_point() and tensor.itemsize >= 2


def _is_router(slot: Slot) -> bool:
    if any(_ROUTER_CLASS.search(type(module).__name__) for module in slot.lineage[1:]):
        return True
    parents = slot.lineage[:-1]
    return slot.leaf in _ROUTER_NAMES and bool(parents) and hasattr(parents[-1], "experts")


def _holds_experts(module: nn.Module) -> bool:
    return any(base.__name__.endswith("Experts") for base in type(module).__mro__)


def _experts_are_transposed(module: nn.Module) -> bool:
    """Whether experts are stored [experts, in, out].

    transformers says so in `is_transposed`; where it does not, the shapes tell:
    [E, 2 inner, hidden] beside [E, hidden, inner] can not be read the other way round.
    """
    declared = getattr(module, "is_transposed", None)
    if declared is not None:
        return bool(declared)
    gate_up, down = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
    if isinstance(gate_up, Tensor) and isinstance(down, Tensor):
        return gate_up.shape[2] == 2 * down.shape[1]
    return False


CONVOLUTIONS = (Kind.CONV2D, Kind.TIMECONV)

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_READS_ITS_CHILDREN = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
_LINEAR_UNDER_ANOTHER_NAME = {"FalconLinear"}
_EXPERT_NAMES = {"gate_up_proj", "gate_proj", "up_proj", "down_proj", "weight"}
_ROUTER_CLASS = re.compile(r"Router|Top[Kk]Gate|M[Oo]E?Gate|Gating$")
_ROUTER_NAMES = {"gate", "router", "shared_expert_gate"}
_POSITION = re.compile(r"(^|_)(pos|positions?|positional|wpe|rel|relative|type|segment)(_|$)")
