"""Values with tensors as bytes, to be sent to another process."""

import io
import pickle
from typing import Any

import torch
from torch import Tensor

from bitplan.errors import InternalError


def wrap(value: Any) -> bytes:
    """Bytes of a value. Of a tensor its own elements alone, though it be a view of a mapped file.

    torch's own way writes the whole storage that a tensor is a view of.
    """
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def unwrap(parcel: bytes) -> Any:
    """The value again; its tensors lie where torch aligns them."""
    return pickle.loads(parcel)


def call(parcel: bytes) -> bytes:
    """Do what a parcel holds, a function and its argument; a parcel of the result or the error."""
    try:
        function, argument = unwrap(parcel)
        return wrap((function(argument), None))
    except Exception as error:
        return _wrapped_error(error)


def result_of(parcel: bytes) -> Any:
    """What `call` came to; raises the error that it met."""
    result, error = unwrap(parcel)
    if error is not None:
        raise error
    return result


def _wrapped_error(error: Exception) -> bytes:
    try:
        parcel = wrap((None, error))
        unwrap(parcel)  # errors of other libraries may be written and yet not be read
    except Exception:
        text = f"A task failed with {type(error).__name__}: {error}. Please report it."
        return wrap((None, InternalError(text)))
    return parcel


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: object) -> Any:
        if not isinstance(obj, Tensor):
            return NotImplemented
        flat = obj.detach().cpu().contiguous().flatten().view(torch.uint8)
        return _tensor, (pickle.PickleBuffer(flat.numpy().data), obj.dtype, tuple(obj.shape))


def _tensor(content: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    if tensor.numel():
        read = torch.frombuffer(content, dtype=torch.uint8)
        tensor.view(-1).view(torch.uint8).copy_(read)
    return tensor
