"""Options that several commands share in groups: one by one on the command line, one object inside.

A group is a frozen dataclass whose fields are written as a command's own options are.
"""

import functools
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """The command of a function: in place of each group that it takes, the options of that group.

    All that the function takes it takes by keyword; the options come in the order of its signature.
    Raises `ValueError` where two options have one name.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Size:
    ...     width: int = 2
    ...     height: int = 3
    >>> @grouped
    ... def area(*, unit: str, size: Size) -> None:
    ...     print(size.width * size.height, unit)
    >>> str(signature(area))
    '(*, unit: str, width: int = 2, height: int = 3) -> None'
    >>> area(unit="cm2", width=2, height=5)
    10 cm2
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, type] = {}
    parameters: list[Parameter] = []
    for name, parameter in signature(function).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            parameters += _options(hints[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    @functools.wraps(function)
    def command(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{each.name: given.pop(each.name) for each in fields(group)})
        function(**given)

    # Typer reads both.
    command.__dict__["__signature__"] = Signature(parameters, return_annotation=None)
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _options(group: type) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name]
        )
        for each in fields(group)
    ]
