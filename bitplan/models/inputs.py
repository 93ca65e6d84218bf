"""What a model is given: named tensors whose first dimension counts sequences, images or clips."""

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

IDS = "input_ids"
DECODER_IDS = "decoder_input_ids"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Tensors by the name of the argument that takes them, one row of each for every sequence."""

    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, given: "Inputs | Tensor | Mapping[str, Tensor]") -> "Inputs":
        """Inputs from a mapping, or from tokens [sequences, length]: `input_ids` alone."""
        if isinstance(given, Inputs):
            return given
        return cls(tensors={IDS: given} if isinstance(given, Tensor) else dict(given))

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: slice | list[int]) -> "Inputs":
        return Inputs(tensors={name: tensor[rows] for name, tensor in self.tensors.items()})

    @property
    def is_text(self) -> bool:
        """Whether they are tokens alone."""
        return list(self.tensors) == [IDS]

    @property
    def ids(self) -> Int[Tensor, "sequences length"] | None:
        """The tokens, where there are some: a decoder's where it has its own."""
        return self.tensors.get(DECODER_IDS, self.tensors.get(IDS))

    @property
    def tokens(self) -> int:
        """Tokens of all sequences; without any, each image or clip counts as one."""
        return len(self) if self.ids is None else self.ids.numel()

    @property
    def tokens_each(self) -> int:
        """Tokens in one sequence; 1 where there are none."""
        return 1 if self.ids is None else self.ids.shape[1]

    @property
    def digest(self) -> str:
        """sha256 over names, shapes and values; over shape and values alone of tokens alone."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            if self.is_text:
                tensor = tensor.to(torch.int64)
            else:
                digest.update(f"{name} {tensor.dtype} ".encode())
            digest.update(repr(list(tensor.shape)).encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def complete(inputs: Inputs, model: nn.Module) -> Inputs:
    """The inputs as the model's forward takes them.

    An encoder-decoder that is given tokens for its encoder alone reads them shifted right in its
    decoder, as it does when it is trained to give back what it was given.
    """
    if IDS not in inputs.tensors or DECODER_IDS in inputs.tensors or not reads(model, DECODER_IDS):
        return inputs
    tokens = inputs.tensors[IDS]
    start = torch.full_like(tokens[:, :1], _start_token(getattr(model, "config", None)))
    shifted = torch.cat([start, tokens[:, :-1]], dim=1)
    return Inputs(tensors={**inputs.tensors, DECODER_IDS: shifted})


def main_input(model: nn.Module) -> str:
    """The argument that a model cannot do without: `input_ids`, `pixel_values`, ..."""
    name = getattr(model, "main_input_name", IDS)
    return name if isinstance(name, str) else IDS


def reads(model: nn.Module, name: str) -> bool:
    """Whether a model's forward names an argument."""
    return name in inspect.signature(model.forward).parameters


def _start_token(config: Any) -> int:
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        token = getattr(config, name, None)
        if isinstance(token, int) and token >= 0:
            return token
    return 0
