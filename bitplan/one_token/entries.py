"""What modules' dictionaries had by names, and whether they still have it.

Asked of each block for each token, when little is in a cache: so no loop here is one of Python's.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import is_, is_not
from typing import Any

from torch import Tensor, nn

GET: Any = dict.get


class Entries:
    """What dictionaries had by names.

    Args:
        entries: a dictionary, a name, and what it had.
    """

    def __init__(self, entries: Sequence[tuple[dict[str, Any], str, Any]]) -> None:
        self._held = [held for held, _, _ in entries]
        self._names = [name for _, name, _ in entries]
        self.values = [value for _, _, value in entries]

    def now(self) -> list[Any]:
        """What they have."""
        return list(map(GET, self._held, self._names))


class Tensors:
    """Where the tensors of modules were, and which names had none."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        entries = [
            (held, name, tensor)
            for module in modules
            for held in (module._parameters, module._buffers)
            for name, tensor in held.items()
        ]
        self._none = Entries([one for one in entries if one[2] is None])
        self._tensors = Entries(
            [(held, name, one.data_ptr()) for held, name, one in entries if one is not None]
        )

    def are_in_place(self) -> bool:
        """Whether they still are."""
        tensors = self._tensors.now()
        return (
            all(map(is_, self._none.now(), self._none.values))
            and all(map(is_not, tensors, repeat(None)))
            and list(map(Tensor.data_ptr, tensors)) == self._tensors.values
        )
