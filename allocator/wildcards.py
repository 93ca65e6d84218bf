"""Layers by wildcard: names as they are, or with a * for any characters."""

import difflib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from bitplan.errors import InputError

Value = TypeVar("Value")


def matching(noun: str, pattern: str, names: Iterable[str]) -> list[str]:
    """The names that match. Raises `InputError` where none does: `noun` says what asked."""
    names = list(names)
    matches = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
    if not matches:
        raise InputError(
            f"The {noun} {pattern!r} matches no layer. {closest(pattern, names)} "
            "A * stands for any characters."
        )
    return matches


def last_match(
    noun: str, patterns: Mapping[str, Value], names: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Pattern -> the names for which it is the last that matches: each name once."""
    names = list(names)
    owner: dict[str, str] = {}
    for pattern in patterns:
        owner.update(dict.fromkeys(matching(noun, pattern, names), pattern))
    return {
        pattern: tuple(name for name in names if owner.get(name) == pattern) for pattern in patterns
    }


def closest(name: str, known: Iterable[str]) -> str:
    """A sentence with the known names that are most like a name."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    return f"Closest of {len(known)}: {', '.join(close)}."
