"""Options of the service's commands, and the sentence for who lacks its extra."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitplan.errors import InputError

if TYPE_CHECKING:
    from bitplan.service.settings import ServiceSettings

Folder = Annotated[
    Path | None,
    typer.Option(
        help="Where database, artefacts and work are.",
        show_default="$BITPLAN_SERVICE_FOLDER, or bitplan/service in the user's data folder",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(help="As postgresql://user@host/name.", show_default="SQLite in folder"),
]


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """The group of those that server and workers share; None: by the environment, or as help says.

    Their names are those of the settings.
    """

    folder: Folder = None
    model_folders: Annotated[
        list[Path] | None,
        typer.Option(
            "--models", metavar="FOLDER", help="Where models may lie; may be given again."
        ),
    ] = None
    text_folders: Annotated[
        list[Path] | None,
        typer.Option("--texts", metavar="FOLDER", help="Where calibration text may lie, likewise."),
    ] = None
    organisations: Annotated[
        list[str] | None,
        typer.Option(
            "--organisation", metavar="NAME", help="Of the hub, whose models may be used."
        ),
    ] = None
    demo: Annotated[
        bool | None, typer.Option("--demo", help='Allow the model "demo", fetched when first used.')
    ] = None
    workers: Annotated[
        int | None, typer.Option(min=0, help="Jobs that run at once.", show_default="1")
    ] = None
    database_url: DatabaseUrl = None
    redis_url: Annotated[
        str | None,
        typer.Option(help="Of the queue, as redis://host:6379/0.", show_default="SQLite in folder"),
    ] = None
    log_format: Annotated[str | None, typer.Option(help="text or json.", show_default="text")] = (
        None
    )

    def settings(self, **more: Any) -> "ServiceSettings":
        """The settings, with those of one command alone. Raises `InputError`."""
        return settings_of(**{each.name: getattr(self, each.name) for each in fields(self)}, **more)


@contextlib.contextmanager
def service_extra() -> Iterator[None]:
    """Turn an import that fails for lack of the extra into one clear sentence."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("bitplan"):
            raise
        raise InputError(
            f"The service needs {error.name}, which is not installed. Install the extra: "
            "pip install 'bitplan[service]'."
        ) from error


def settings_of(**given: Any) -> "ServiceSettings":
    """Settings from options, where they are not None, and the environment. Raises `InputError`."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from bitplan.service.settings import ServiceSettings

    try:
        return ServiceSettings(**{name: one for name, one in given.items() if one is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise InputError(
            f"The setting {name} cannot be used: {first['msg']}. Change the option, or "
            f"BITPLAN_SERVICE_{name.upper()}."
        ) from None
    except (SettingsError, ValueError) as error:
        raise InputError(f"The environment's settings cannot be read: {error}.") from None
