"""What tells a model, or settings, from all others: for the names of what is kept of them."""

import hashlib
from collections.abc import Iterable

import torch
from torch import nn

from bitplan.models import weight_of
from bitplan.schema import Layer


def short_digest(*parts: object) -> str:
    """16 hexadecimal digits that tell settings apart."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def fingerprint(model: nn.Module, layers: Iterable[Layer], digest: str) -> str:
    """What tells a model from all others, to the last bit, for the name of its folder.

    `digest` is over the layers' weights as bfloat16. Norms, biases, buffers and wider weights make
    a difference to all that is measured, and the folder holds originals to be given back.
    """
    weights = [weight_of(model, layer) for layer in layers]
    digested = {weight.data_ptr() for weight in weights if weight.dtype is torch.bfloat16}
    exact = hashlib.sha256(f"{type(model).__name__} {digest}\n".encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        exact.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        if tensor.numel() and tensor.data_ptr() not in digested:
            flat = tensor.detach().cpu().contiguous().flatten()
            exact.update(flat.view(torch.uint8).numpy().data)
    return exact.hexdigest()[:16]
