"""What a model may be given as, and its name."""

from pathlib import Path

from torch import nn

from bitplan.place import locate

Source = nn.Module | str | Path
"""A model, or a local folder, a .gguf file or a hub id to load one from."""


def source_name(source: Source) -> str:
    """A short name of a model, for people."""
    if isinstance(source, nn.Module):
        known = getattr(source, "name_or_path", "")
        return known if isinstance(known, str) and known else type(source).__name__
    return locate(source).name
