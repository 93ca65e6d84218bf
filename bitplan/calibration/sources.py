"""Where calibration tokens come from: one source, or several with weights."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

from torch import Tensor

from bitplan.calibration.sets import TokenSets
from bitplan.errors import CalibrationError
from bitplan.models import Inputs
from bitplan.place import check_text, check_weight, split_weight

Content = str | Path | Sequence[str] | Tensor
"""A text, JSONL or .safetensors file, a folder of data sets, documents, or tokens."""


@dataclass(frozen=True)
class Source:
    """One source of calibration tokens: a domain of its own.

    Args:
        content: a text, JSONL or .safetensors file, a folder of data sets, documents, or tokens
            [sequences, length].
        weight: its share of the sequences is its weight over the sum of all weights.
        name: what tables call it; None: the name of its file or folder.

    Raises:
        CalibrationError: the weight is not a number above zero.
    """

    content: Content
    _: KW_ONLY
    weight: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.content, str | Path | Tensor | Sequence):
            raise CalibrationError(
                f"A {type(self.content).__name__} is no source of calibration tokens. Give a path, "
                "a list of strings, or tokens."
            )
        check_weight(self.label, self.weight)

    @property
    def path(self) -> Path | None:
        """Its file or folder, if it is one."""
        return Path(self.content) if isinstance(self.content, str | Path) else None

    @property
    def label(self) -> str:
        """Its name."""
        if self.name is not None:
            return self.name
        if self.path is not None:
            return self.path.name or str(self.path)
        return "tokens" if isinstance(self.content, Tensor) else "documents"


Calibration = (
    Content
    | Source
    | Sequence[Source]
    | Mapping[str | Path, float]
    | Mapping[str, Tensor]
    | Inputs
    | TokenSets
    | None
)
"""One source, several, path -> weight, ready sets, or None: sample from the model.

A model that reads something else than text is given tensors by name, one row of each an image or a
clip: {"pixel_values": [images, ...]}.
"""


def inputs_of(calibration: Calibration) -> Inputs | None:
    """Tensors by name, if that is what was given."""
    if isinstance(calibration, Inputs):
        return calibration
    if not isinstance(calibration, Mapping) or not calibration:
        return None
    tensors = {str(k): v for k, v in calibration.items() if isinstance(v, Tensor)}
    return Inputs.of(tensors) if len(tensors) == len(calibration) else None


def sources_of(calibration: Calibration) -> tuple[Source, ...]:
    """The sources with names that differ; none for ready sets, tensors by name and None.

    Raises `CalibrationError` for what is no source.
    """
    if calibration is None or isinstance(calibration, TokenSets | Inputs):
        return ()
    if inputs_of(calibration) is not None:
        return ()
    if isinstance(calibration, Source):
        return (calibration,)
    if isinstance(calibration, Mapping):
        weights = {k: v for k, v in calibration.items() if not isinstance(v, Tensor)}
        sources = [Source(path, weight=weight) for path, weight in weights.items()]
        if not all(source.path for source in sources):
            raise CalibrationError(
                "A mapping of calibration sources must be from paths to weights."
            )
    elif isinstance(calibration, str | Path | Tensor):
        return (Source(calibration),)
    elif not any(isinstance(item, Source) for item in calibration):
        return (Source([item for item in calibration if not isinstance(item, Source)]),)
    else:
        sources = [item for item in calibration if isinstance(item, Source)]
        if len(sources) < len(calibration):
            raise CalibrationError(
                "The list mixes sources with other things. Put each into a Source of its own."
            )
    if not sources:
        raise CalibrationError("There is no calibration source in the mapping. Give one or more.")
    return _distinct(sources)


def check_sources(calibration: Calibration) -> None:
    """Raise `CalibrationError` for what is no source, and for paths that do not exist."""
    for source in sources_of(calibration):
        if isinstance(source.content, str | Path):
            check_text(source.content)


def parse_source(text: str) -> Source:
    """The source of `PATH` or `PATH:WEIGHT`.

    A path that exists as it is written is one, whatever it looks like: a file named `a:2` has a
    weight when it is given as `a:2:0.7`.

    >>> parse_source("code.jsonl:0.7").weight
    0.7
    """
    path, weight = split_weight(text)
    return Source(path) if weight is None else Source(path, weight=weight)


def _distinct(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The sources, a number after each name that was there before."""
    seen: dict[str, int] = {}
    named = []
    for source in sources:
        seen[source.label] = count = seen.get(source.label, 0) + 1
        named.append(replace(source, name=f"{source.label} ({count})") if count > 1 else source)
    return tuple(named)
