"""Linears and what makes their inputs: where a change of the model can be undone by its neighbour.

A norm, a value projection or `up` gives the channels that the linears after it read. Whatever is
done to these channels there can be undone in the columns of the readers, and the model computes
what it did. Which modules those are is told by the kind of model: a block that adds its parts up in
another order looks the same from its names.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bitplan.errors import ModelError
from bitplan.schema import Sublayer


@dataclass(frozen=True, kw_only=True)
class Group:
    """Linears that read the same channels, and the module that makes them.

    Args:
        maker: path of a norm or a linear.
        readers: paths of linears.
        rows: of the maker's outputs, those that are read here; None: all.
        copies: heads of the readers that read each head of the maker, one after another.
        head: channels of a head where the group lies between values and output; None elsewhere.
        gated: the channels are multiplied by others on the way to the readers.
    """

    maker: str
    readers: tuple[str, ...]
    rows: slice | None = None
    copies: int = 1
    head: int | None = None
    gated: bool = False


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The residual stream: what each block reads and adds to.

    `norms` maps the path of each norm on it to the linears that read that norm, `writers` are the
    linears that add to it. The head reads the last norm.
    """

    embedding: str
    norms: Mapping[str, tuple[str, ...]]
    writers: tuple[str, ...]
    last_norm: str
    head: str


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The groups of a model, in the order of its blocks; and its stream, if norms only scale it.

    `sublayers` are all of its linears between what a norm gives and what is added to the stream.
    """

    groups: tuple[Group, ...]
    stream: Stream | None
    sublayers: tuple[Sublayer, ...]


def find_neighbours(model: nn.Module) -> Neighbours:
    """What makes the inputs of a model's linears. Raises `ModelError` where that is not known."""
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in FINDERS:
        known = ", ".join(FINDERS)
        raise ModelError(
            f"What makes the inputs of the linears of {type(model).__name__} is not known: its "
            f"type of model is {kind}, and known are {known}. Choose the transform "
            '"none".'
        )
    found = FINDERS[kind](model, config)
    for group in found.groups:
        for path in (group.maker, *group.readers):
            rows_of(model, path)  # raises
    return found


def rows_of(model: nn.Module, path: str) -> Tensor:
    """A view of a linear's weight as [out, in], or of a norm's as [channels]."""
    try:
        module: Any = model.get_submodule(path)
        weight = module.weight.detach()
    except AttributeError:
        raise ModelError(
            f"{type(model).__name__} has no weight at {path!r}, as models of its type have. Give "
            'the model as transformers loads it, or choose the transform "none".'
        ) from None
    return weight.T if isinstance(module, Conv1D) else weight


def bias_of(model: nn.Module, path: str) -> Tensor | None:
    """The bias of a linear or a norm; None where it has none."""
    bias = getattr(model.get_submodule(path), "bias", None)
    return None if bias is None else bias.detach()


def takes_shift(model: nn.Module, group: Group) -> bool:
    """Whether what is taken off each channel can be given back: by biases, and past no gate.

    Weights of attention have a sum of 1, so that it goes through them as it is.
    """
    biases = [bias_of(model, path) for path in (group.maker, *group.readers)]
    return not group.gated and all(bias is not None for bias in biases)


def is_tied(model: nn.Module, stream: Stream) -> bool:
    """Whether head and embedding are one weight."""
    one, other = rows_of(model, stream.embedding), rows_of(model, stream.head)
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape


def is_constant(weight: Tensor) -> bool:
    """Whether a norm scales all channels alike."""
    return bool(torch.equal(weight, weight[:1].expand_as(weight)))


def _llama(model: nn.Module, config: Any) -> Neighbours:
    """Llama and those of its shape: RMSNorms, attention that may be grouped, a gated MLP."""
    heads, head = _heads(config)
    copies = heads // (config.num_key_value_heads or heads)
    groups, norms, writers, sublayers = [], {}, [], []
    for block in _blocks(model, "model.layers"):
        reads = {
            f"{block}.input_layernorm": tuple(f"{block}.self_attn.{x}_proj" for x in "qkv"),
            f"{block}.post_attention_layernorm": tuple(
                f"{block}.mlp.{x}_proj" for x in ("gate", "up")
            ),
        }
        attention, mlp = (Group(maker=norm, readers=readers) for norm, readers in reads.items())
        output, down = f"{block}.self_attn.o_proj", f"{block}.mlp.down_proj"
        value = Group(
            maker=f"{block}.self_attn.v_proj", readers=(output,), copies=copies, head=head
        )
        up = Group(maker=f"{block}.mlp.up_proj", readers=(down,), gated=True)
        groups += [attention, value, mlp, up]
        norms |= reads
        writers += [output, down]
        sublayers += [
            Sublayer(name=f"{block}.self_attn", layers=(*attention.readers, output)),
            Sublayer(name=f"{block}.mlp", layers=(*mlp.readers, down)),
        ]
    stream = Stream(
        embedding="model.embed_tokens",
        norms=norms,
        writers=tuple(writers),
        last_norm="model.norm",
        head="lm_head",
    )
    return Neighbours(groups=tuple(groups), stream=stream, sublayers=tuple(sublayers))


def _gpt2(model: nn.Module, config: Any) -> Neighbours:
    """GPT-2: LayerNorms, one matrix for queries, keys and values, no gate before the last linear.

    A LayerNorm takes the mean off, which a rotated stream has elsewhere: it has none here.
    """
    heads, head = _heads(config)
    width = heads * head
    groups, sublayers = [], []
    for block in _blocks(model, "transformer.h"):
        joined = f"{block}.attn.c_attn"
        groups += [
            Group(maker=f"{block}.ln_1", readers=(joined,)),
            Group(
                maker=joined,
                readers=(f"{block}.attn.c_proj",),
                rows=slice(2 * width, 3 * width),
                head=head,
            ),
            Group(maker=f"{block}.ln_2", readers=(f"{block}.mlp.c_fc",)),
        ]
        sublayers += [
            Sublayer(name=f"{block}.attn", layers=(joined, f"{block}.attn.c_proj")),
            Sublayer(name=f"{block}.mlp", layers=(f"{block}.mlp.c_fc", f"{block}.mlp.c_proj")),
        ]
    return Neighbours(groups=tuple(groups), stream=None, sublayers=tuple(sublayers))


def _heads(config: Any) -> tuple[int, int]:
    heads = config.num_attention_heads
    return heads, getattr(config, "head_dim", None) or config.hidden_size // heads


def _blocks(model: nn.Module, path: str) -> Iterator[str]:
    try:
        blocks: Any = model.get_submodule(path)
    except AttributeError:
        raise ModelError(
            f"{type(model).__name__} has no {path!r}: it is a model of its type without a head, "
            "or a part of another. Give the model that predicts tokens."
        ) from None
    for index in range(len(blocks)):
        yield f"{path}.{index}"


FINDERS = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3", "granite"), _llama),
    "gpt2": _gpt2,
}
"""By the type of model, as its config names it."""
