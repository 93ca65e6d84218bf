"""Writes the reference pages of this folder from the code; `--check` compares instead.

python docs/generate.py            write api.md, cli.md, plan.schema.json, costs.schema.json
                                   and the settings in service.md
python docs/generate.py --check    exit with 1 and a diff where a page is not up to date
"""

import argparse
import ast
import difflib
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

import bitplan
from bitplan.allocator import (
    PRESETS,
    AverageBits,
    BitOps,
    CacheBytes,
    Constraints,
    Curve,
    Explanation,
    Latencies,
    Preset,
    ReadBytes,
    Seconds,
    Stability,
    WeightBytes,
    Workspace,
    best_plans,
    explain,
    recorded_constraints,
    stability,
    with_interactions,
)
from bitplan.allocator.explanation import Increment, Move, Reason, RunnerUp
from bitplan.calibration import Sizes, Source
from bitplan.pipeline import Settings
from bitplan.schema import CostTable, Plan, Record, json_schema
from bitplan.service.settings import ServiceSettings

DOCS = Path(__file__).parent
GENERATED = "<!-- Written by docs/generate.py: edit the code's docstrings and help instead. -->\n"


def main() -> int:
    """Write the pages, or compare them; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the reference pages from the code.")
    parser.add_argument("--check", action="store_true", help="compare only; 1 where they differ")
    check = parser.parse_args().check
    stale = 0
    for name, page in PAGES.items():
        path, text = DOCS / name, re.sub(r"\n{3,}", "\n\n", page())
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if old == text:
            continue
        stale += 1
        if check:
            lines = old.splitlines(keepends=True), text.splitlines(keepends=True)
            sys.stdout.writelines(difflib.unified_diff(*lines, f"docs/{name}", "from the code"))
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}")
    if check and stale:
        print(f"{stale} of {len(PAGES)} pages are not up to date. Run: python docs/generate.py")
    return int(check and stale > 0)


def cli_page() -> str:
    """The command line, verb by verb."""
    app = importlib.import_module("bitplan.cli.app").app
    command = typer.main.get_command(app)
    return f"{GENERATED}\n# Command line\n" + "".join(_verb(command, "bitplan", parent=None))


def _verb(command: Any, name: str, parent: Any) -> Iterator[str]:
    """One command and those below it. Their classes are typer's own, so they are not named here."""
    context = typer.Context(command, info_name=name, parent=parent)
    yield f"\n## {context.command_path}\n"
    if command.help:
        yield f"\n{inspect.cleandoc(command.help)}\n"
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"\n```\n{usage}\n```\n"
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [
        f"- `{' '.join(names.split())}`: {_line(text)}\n" for names, text in filter(None, records)
    ]
    yield "\n" + "".join(rows) if rows else ""
    for verb in command.list_commands(context) if hasattr(command, "list_commands") else ():
        below = command.get_command(context, verb)
        if not below.hidden:
            yield from _verb(below, verb, context)


def _line(text: str) -> str:
    return " ".join(text.split())


def api_page() -> str:
    """The public names of the package."""
    entries = {name: getattr(bitplan, name) for name in bitplan.__all__}
    names = "".join(f"\n## {name}\n{_entry(name, entry)}" for name, entry in entries.items())
    intro = "Everything here is imported from `bitplan`: `from bitplan import allocate`."
    settings = (
        "\n# Settings\n\nKeyword arguments of `allocate` and `measure`; `Sizes` and `Source` are "
        "imported from `bitplan.calibration`.\n"
    )
    settings += "".join(
        f"\n## {e.__name__}\n{_entry(e.__name__, e)}" for e in (Settings, Sizes, Source)
    )
    table = "\n# What else a table tells\n\nImported from `bitplan.allocator`.\n"
    table += "".join(f"\n## {e.__name__}\n{_entry(e.__name__, e)}" for e in TABLE_ENTRIES)
    constraints = (
        "\n# Constraints\n\nWhat a plan must keep to; all of these are imported from "
        f"`bitplan.allocator`.\n\n## Constraints\n{_entry('Constraints', Constraints)}"
    )
    limits = (
        AverageBits,
        WeightBytes,
        CacheBytes,
        Workspace,
        ReadBytes,
        BitOps,
        Seconds,
        Latencies,
    )
    constraints += "".join(f"\n## {e.__name__}\n\n{_prose(e)}" for e in limits)
    presets = (
        "\n# Published methods\n\n`PRESETS` of `bitplan.allocator`, by name. "
        f"{_prose(Preset).lstrip()}\n"
    )
    presets += "".join(f"- {_preset(one)}\n" for one in PRESETS.values())
    return f"{GENERATED}\n# Python\n\n{intro}\n{names}{settings}{table}{constraints}{presets}"


def service_page() -> str:
    """docs/service.md with its table of settings as the code has them."""
    text = (DOCS / "service.md").read_text(encoding="utf-8")
    before, begin, rest = text.partition("<!-- settings: written by docs/generate.py -->\n")
    _, end, after = rest.partition("<!-- end of settings -->")
    assert begin
    assert end
    rows = "".join(
        f"| `BITPLAN_SERVICE_{name.upper()}` | {_default(field)} | {field.description or ''} |\n"
        for name, field in ServiceSettings.model_fields.items()
    )
    return f"{before}{begin}\n| variable | default | |\n|---|---|---|\n{rows}\n{end}{after}"


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return "in the user's data folder"
    if field.default is None or field.default == ():
        return "none"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _preset(one: Preset) -> str:
    measured = ", ".join(f"`{name}`" for name in one.estimators)
    return f"`{one.name}`: {one.objective}. Measured by {measured}, in {one.menu}. {one.source}."


def _entry(name: str, entry: Any) -> str:
    if not inspect.isclass(entry):
        return f"\n{_code(_signature(_node(entry), name))}\n{_prose(entry)}"
    parts = [f"\n{_prose(entry)}", _fields(entry)]
    # The verbs of `AsyncClient` are those of `Client`, where they are listed.
    for member, home in _members(entry) if entry is not bitplan.AsyncClient else ():
        verb = inspect.unwrap(vars(home)[member])
        node = _node(verb) if verb is not vars(home)[member] else _node(home, member)
        call = f"{name}.{member}"
        if "property" in map(ast.unparse, node.decorator_list):
            returns = f": {ast.unparse(_unquoted(node.returns))}" if node.returns else ""
            signature = f"{call}{returns}"
        else:
            signature = _signature(node, call)
        parts.append(f"\n{_code(signature)}\n{_markdown(ast.get_docstring(node) or '')}")
    return "".join(parts)


def _members(entry: type) -> Iterator[tuple[str, type]]:
    """Public methods and properties with the class that defines each; bitplan's own alone."""
    seen = set()
    for home in entry.__mro__:
        if not home.__module__.startswith("bitplan"):
            continue
        for member, value in vars(home).items():
            callable_ = isinstance(value, property | classmethod | staticmethod)
            if (
                member.startswith("_")
                or member in seen
                or not (callable_ or inspect.isfunction(value))
            ):
                continue
            seen.add(member)
            yield member, home


def _fields(entry: type) -> str:
    if not issubclass(entry, Record):
        annotations = inspect.get_annotations(entry)
        described = {name: "" for name in annotations if not name.startswith("_")}
    else:
        described = {name: field.description or "" for name, field in entry.model_fields.items()}
    lines = []
    for home in reversed(entry.__mro__):
        if not home.__module__.startswith("bitplan"):
            continue
        for node in _node(home).body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) in described:
                name = ast.unparse(node.target)
                about = f": {described[name]}" if described[name] else ""
                lines.append(f"- `{name}: {ast.unparse(node.annotation)}`{about}\n")
    return "\n" + "".join(lines) if lines else ""


def _node(entry: Any, member: str | None = None) -> Any:
    """The syntax tree of a function or class, or of a member of a class.

    Signatures come from the source, not from the running objects, so that every Python writes them
    alike.
    """
    node: Any = ast.parse(textwrap.dedent(inspect.getsource(entry))).body[0]
    if member is None:
        return node
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return next(n for n in node.body if isinstance(n, functions) and n.name == member)


def _signature(node: Any, name: str) -> str:
    """`name(a, *, b=1) -> C`, with a line for each parameter where it would be too long."""
    arguments = node.args
    for group in (arguments.posonlyargs, arguments.args, arguments.kwonlyargs):
        group[:] = [argument for argument in group if argument.arg not in ("self", "cls")]
        for argument in group:
            argument.annotation = _unquoted(argument.annotation)
    returns = f" -> {ast.unparse(_run(_unquoted(node.returns)))}" if node.returns else ""
    parts = _split(ast.unparse(arguments))
    # unparse writes `a: int=1`
    parts = [re.sub(r"^(\w+: [^=]+)=", r"\1 = ", part) for part in parts if part]
    text = f"{name}({', '.join(parts)}){returns}"
    if len(text) <= 88:
        return text
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}"


def _run(returns: Any) -> Any:
    """What a client gives where a verb is a flow: its result, or events one by one."""
    if isinstance(returns, ast.Subscript) and ast.unparse(returns.value) == "Flow":
        return returns.slice
    if isinstance(returns, ast.Name) and returns.id == "Watching":
        return ast.parse("Iterator[Event]", mode="eval").body
    return returns


def _unquoted(annotation: Any) -> Any:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


def _split(arguments: str) -> list[str]:
    """Split at the commas that are not inside brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for character in arguments:
        if quote or character in "'\"":
            quote = "" if character == quote else quote or character
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


def _prose(entry: Any) -> str:
    return _markdown(inspect.getdoc(entry) or "")


_SECTION = re.compile(r"^(Args|Arguments|Returns|Raises|Yields|Source):$")
_ITEM = re.compile(r"^    (\*{0,2}\w[\w., ]*): (.*)$")


def _markdown(docstring: str) -> str:
    """A docstring as Markdown: sections become lists, doctests and drawings become code."""
    return "".join(f"{_block(block)}\n" for block in _blocks(docstring))


def _blocks(docstring: str) -> list[list[str]]:
    """Paragraphs, split at blank lines."""
    blocks: list[list[str]] = [[]]
    for line in docstring.splitlines():
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def _block(block: list[str]) -> str:
    if block[0].startswith(">>>"):
        return _code("\n".join(block))
    if block[0].startswith("    "):
        return "```\n" + textwrap.dedent("\n".join(block)) + "\n```\n"
    if not _SECTION.match(block[0]):
        return "\n".join(block) + "\n"
    title = "Arguments" if block[0] == "Args:" else block[0].removesuffix(":")
    lines = [f"**{title}**\n\n"]
    for line in block[1:]:
        item = _ITEM.match(line)
        if item:
            lines.append(f"- `{item[1]}`: {item[2]}\n")
        else:
            lines.append(f"  {line.strip()}\n")
    return "".join(lines)


TABLE_ENTRIES = (
    *(explain, Explanation, Reason, RunnerUp, Move, Increment),
    *(best_plans, stability, Stability, Curve, with_interactions, recorded_constraints),
)

PAGES: dict[str, Callable[[], str]] = {
    "api.md": api_page,
    "plan.schema.json": lambda: json_schema(Plan),
    "costs.schema.json": lambda: json_schema(CostTable),
    "cli.md": cli_page,
    "service.md": service_page,
}

if __name__ == "__main__":
    sys.exit(main())
