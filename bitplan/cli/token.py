"""`bitplan token`: make, list and revoke the tokens of a service."""

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter
from rich.table import Table

from bitplan.cli.options import AsJson
from bitplan.cli.service import DatabaseUrl, Folder, service_extra, settings_of
from bitplan.cli.show import show
from bitplan.errors import InputError

if TYPE_CHECKING:
    from bitplan.service.records import Token
    from bitplan.service.store import Store

DAY_S = 24 * 3600

token = typer.Typer(
    name="token",
    no_args_is_help=True,
    help="Make, list and revoke the tokens of a service; needs the extra service.",
)


@token.command()
def create(
    name: Annotated[str, typer.Argument(help="Owner of the jobs that it submits.")],
    scope: Annotated[
        str,
        typer.Option(
            help="read: look and solve; submit: jobs, too; admin: everyone's, and tokens."
        ),
    ] = "submit",
    days: Annotated[
        float | None, typer.Option(help="It is good for so long.", show_default="until revoked")
    ] = None,
    folder: Folder = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a token; its secret is shown this once."""
    with service_extra():
        from bitplan.service.records import Scope

        if scope not in list(Scope):
            raise InputError(f"There is no scope {scope!r}. Choose one of {', '.join(Scope)}.")
        if days is not None and not 0 < days <= 36500:
            raise InputError(f"A token for {days:g} days was asked for. Give more than 0.")
        if not name.strip() or not name.isprintable() or len(name) > 100:
            raise InputError("A token needs a name of 1 to 100 printable characters. Give one.")
        with closing(_store(folder, database_url)) as store:
            made, secret = store.tokens.create(
                name, Scope(scope), None if days is None else days * DAY_S
            )
            _note(store, "create token", made)
    content = {"token": made, "secret": secret}
    show(
        _json(content),
        as_json,
        lambda: [
            _table([made]),
            f"Its secret, which is shown this once: {secret}",
            "Send it as Authorization: Bearer, put it into BITPLAN_TOKEN, or log in with it on the "
            "page.",
        ],
    )


@token.command("list")
def list_tokens(
    folder: Folder = None, database_url: DatabaseUrl = None, as_json: AsJson = False
) -> None:
    """List all tokens, without their secrets."""
    with service_extra(), closing(_store(folder, database_url)) as store:
        found = store.tokens.list()
    show(_json(found), as_json, lambda: [_table(found)])


@token.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As list shows it.")],
    folder: Folder = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a token useless from now on."""
    with service_extra(), closing(_store(folder, database_url)) as store:
        revoked = store.tokens.revoke(token_id)
        _note(store, "revoke token", revoked)
    show(_json(revoked), as_json, lambda: [_table([revoked])])


def _store(folder: Any, database_url: str | None) -> "Store":
    from bitplan.service.store import Store

    return Store.open(settings_of(folder=folder, database_url=database_url))


def _note(store: "Store", action: str, about: "Token") -> None:
    store.audit.note("command line", action, f"{about.id} {about.name} {about.scope}")


def _json(content: Any) -> str:
    return TypeAdapter(Any).dump_json(content, indent=2).decode()


def _table(tokens: "Sequence[Token]") -> Table:
    table = Table("id", "name", "scope", "made", "good until", "revoked")
    for one in tokens:
        moments = one.created_at, one.expires_at, one.revoked_at
        texts = ("" if at is None else f"{at:%Y-%m-%d %H:%M}" for at in moments)
        table.add_row(one.id, one.name, one.scope, *texts)
    return table
