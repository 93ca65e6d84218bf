"""What every way through the model has in common."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence

from bitplan.schema import Layer
from bitplan.sensitivity.watch import Seen

Sighting = tuple[int, list[Seen] | None]
"""The index of a sequence, and all calls of layers in it; None where its loss is not finite."""


class AbstractPass(ABC):
    """Sends every sequence through the model, and tells what the layers see of it.

    Layers come in groups that are seen together; a group can be run again, alone, at any time.
    """

    @property
    @abstractmethod
    def tokens_each(self) -> int:
        """Tokens in one sequence."""

    @abstractmethod
    def groups(self, layers: Sequence[Layer]) -> Generator[list[Layer], None, None]:
        """The layers in groups, in the order in which they are best run.

        What a group alone needs may be given back when the next is asked for. Close the generator
        if it is not run to its end.
        """

    @abstractmethod
    def run(self, group: Sequence[Layer], *, first: int = 0) -> Generator[Sighting, None, None]:
        """Every sequence from the first on, and all calls of the group's layers in it.

        None stands for the calls in a sequence whose loss is not finite. The model may be changed
        between the first and the last: close the generator if it is not run to its end.
        """

    def close(self) -> None:
        """Give back what the pass kept to go on from, on disk or in memory: all is gathered."""
        return
