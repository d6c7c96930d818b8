"""What MkDocs cannot do by itself when it builds the site of this folder.

- README is the home page, so that it is written once.
- A page may link to any file of the repository, as on a forge: the pages of `experiments/` become pages of the site,
  and other files, source code among them, are copied into it. A link to a missing file fails the build (`--strict`).
- A line `<!-- made: NAME -->` becomes a table that is made from the code: see `TABLES`.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tunerun.markdown import table

log = logging.getLogger("mkdocs.hooks")

REPOSITORY = Path(__file__).resolve().parent.parent
HOME = "README.md"
MADE = re.compile(r"(?m)^<!-- made: ([a-z]+) -->$")
LINK = re.compile(r"(\]\()([^()\s]+)(\))")
CODE = re.compile(r"(?ms)^```.*?^```$|`[^`\n]+`")
"""Fenced blocks and inline code, in which nothing is a link."""
FOREIGN = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*?\bsrc=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?![^>]*\brel=["']?canonical)[^>]*?\bhref=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|@import\s+(?:url\()?["']?((?:https?:)?//[^"'\s)]+)""",
    re.IGNORECASE,
)
"""What a browser loads by itself; a link that a reader follows is none of it."""
CODE_OR_TEXT = re.compile(r"(`[^`]*`)|[^`]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README and every file of the repository that a page links to, directly or through another page."""
    found = {posixpath.join("docs", file.src_uri) for file in files.documentation_pages()}
    waiting = [HOME, *sorted(found)]
    while waiting:
        page = waiting.pop()
        for target in _targets(page, (REPOSITORY / page).read_text(encoding="utf-8")):
            if target in found or not (REPOSITORY / target).is_file():
                continue
            found.add(target)
            if target.endswith(".md"):
                waiting.append(target)
            if not target.startswith("docs/"):
                files.append(File.generated(config, _site_path(target), abs_src_path=str(REPOSITORY / target)))
    if HOME not in found:
        files.append(File.generated(config, _site_path(HOME), abs_src_path=str(REPOSITORY / HOME)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Point links at the places that files have in the site, and put the tables in."""
    here = _repository_path(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        address, _, anchor = match[2].partition("#")
        target = _target(here, match[2])
        if target is None:
            return match[0]
        linked = posixpath.relpath(_site_path(target), posixpath.dirname(page.file.src_uri) or ".")
        return f"{match[1]}{linked}{'#' * bool(anchor)}{anchor}{match[3]}" if address else match[0]

    with_tables = MADE.sub(lambda match: TABLES[match[1]](), markdown)
    return _outside_code(with_tables, lambda text: LINK.sub(moved, text))


def on_post_build(config: MkDocsConfig) -> None:
    """Warn of each file that a page would load from another host: the site works without a network."""
    for file in sorted(Path(config.site_dir).rglob("*.html")):
        for match in FOREIGN.finditer(file.read_text(encoding="utf-8")):
            address = next(group for group in match.groups() if group)
            log.warning("%s loads %s from another host", file.relative_to(config.site_dir), address)


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Apply a change to what is not code."""
    parts, end = [], 0
    for code in CODE.finditer(markdown):
        parts += [change(markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(markdown[end:])])


def _targets(page: str, markdown: str) -> Iterator[str]:
    links = (match[2] for match in LINK.finditer(CODE.sub("", markdown)))
    return (target for link in links if (target := _target(page, link)) is not None)


def _target(page: str, link: str) -> str | None:
    """The file of the repository that a link of a page leads to; None: an address, or a place in the page itself."""
    address = link.partition("#")[0]
    if not address or "://" in address or address.startswith("mailto:"):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), address))


def _site_path(file: str) -> str:
    """Where a file of the repository is among the sources of the site.

    Source code gets the ending .txt: browsers show it instead of saving it.
    """
    if file == HOME:
        return "index.md"
    if file.startswith("docs/"):
        return file.removeprefix("docs/")
    is_shown = file.endswith((".md", ".png", ".svg", ".html", ".json", ".csv", ".zip"))
    return f"repository/{file}" if is_shown else f"repository/{file}.txt"


def _repository_path(source: str) -> str:
    if source == "index.md":
        return HOME
    if source.startswith("repository/"):
        return source.removeprefix("repository/").removesuffix(".txt")
    return f"docs/{source}"


def configuration() -> str:
    """Every key of the config, section by section, from the schema."""
    from tunerun.compose.validation import models_in
    from tunerun.schema import WORKED_OUT, Experiment

    fields = {name: field for name, field in Experiment.model_fields.items() if name not in WORKED_OUT}
    sections = {name: list(models_in(field.annotation)) for name, field in fields.items()}
    single = [_key(name, field) for name, field in fields.items() if not sections[name]]
    parts = ["## The experiment itself", _key_table(single)]
    for name, members in sections.items():
        for member, kind in members:
            parts.append(f"## `{name}`" + (f" with `kind: {kind}`" if kind else ""))
            parts.append(" ".join((member.__doc__ or "").split("\n\n")[0].split()))
            parts.append(_key_table(_keys(member, f"{name}.")))
    return "\n\n".join(parts)


def _key_table(rows: Iterable[list[str]]) -> str:
    return table(["key", "value", "default", "meaning"], rows, is_markdown=True)


def _keys(section: type[BaseModel], prefix: str) -> Iterator[list[str]]:
    from tunerun.compose.validation import models_in

    for name, field in section.model_fields.items():
        inner = list(models_in(field.annotation))
        if len(inner) != 1 or (not field.is_required() and field.default is None):
            yield _key(f"{prefix}{name}", field)
        for member, kind in inner:
            yield from _keys(member, f"{prefix}{name}." if kind is None else f"{prefix}{name}[kind={kind}].")


def _key(key: str, field: FieldInfo) -> list[str]:
    from tunerun.compose.explanation import allowed_in, choices_of, default_of, description_of, unit_of

    choices = choices_of([field])
    values = ", ".join(f"`{choice}`" for choice in choices) if choices else allowed_in(field) or ""
    if choices and (others := (allowed_in(field) or "").replace("one of its choices", "").strip(" or,")):
        values += f", {others}"
    meaning = " ".join((description_of(field) or "").split())
    unit = unit_of(key.rpartition(".")[2], field)
    if unit and not unit.startswith("none"):
        meaning += f" Unit: {unit}."
    default = "required" if field.is_required() else f"`{default_of(field)}`"
    return [f"`{key}`", _cell(values), _cell(default), _cell(meaning)]


def _cell(text: str) -> str:
    """Text as it can be written into a table: tags and bars of a description are shown as they are."""
    return CODE_OR_TEXT.sub(lambda part: part[0] if part[1] else part[0].replace("<", "&lt;").replace("|", "\\|"), text)


def commands() -> str:
    """Every command with its arguments and options, from the command line itself."""
    import typer

    from tunerun.cli import app

    return "\n\n".join(_command(["tunerun"], typer.main.get_command(app)))


def _command(path: list[str], command: Any) -> Iterator[str]:
    """Yield the parts of a command's section, then those of the commands below it."""
    below = {name: each for name, each in getattr(command, "commands", {}).items() if not each.hidden}
    if len(path) > 1 and (command.callback is not None or not below):
        arguments = [_metavar(each) for each in command.params if each.param_type_name == "argument"]
        yield f"## `{' '.join(path[1:])}`"
        yield " ".join((command.help or "").split())
        yield f"```text\n{' '.join([*path, '[OPTIONS]', *arguments])}\n```"
        rows = [
            [f"`{each.metavar}`", _cell(each.help)] for each in command.params if each.param_type_name == "argument"
        ]
        rows += [_option(each) for each in command.params if each.param_type_name == "option" and not each.hidden]
        if rows:
            yield table(["argument or option", "meaning"], rows, is_markdown=True)
    for name, each in below.items():
        yield from _command([*path, name], each)


def _metavar(argument: Any) -> str:
    name = argument.metavar or argument.name.strip("_").upper()
    text = str(name) if argument.required else f"[{name}]"
    return f"{text}..." if argument.nargs == -1 else text


def _option(option: Any) -> list[str]:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" `{option.metavar or option.name.strip('_').upper()}`"
    meaning = " ".join((option.help or "").split())
    default = option.default
    if not option.is_flag and isinstance(default, str | int | float) and not isinstance(default, bool):
        meaning += f" Default: `{default}`."
    return [f"{names}{value}", _cell(meaning)]


def checks() -> str:
    """The table of data checks, from the table that the program runs."""
    from tunerun.dataset import CHECKS

    rows = [[check.name, check.severity, _cell(check.meaning)] for check in CHECKS]
    return table(["check", "severity", "what it finds"], rows, is_markdown=True)


def metrics() -> str:
    """The metrics with their options, from their classes."""
    from tunerun.metrics.registry import built_in

    rows = []
    for name, model in built_in().items():
        sentence = " ".join((model.__doc__ or "").split("\n\n")[0].split())
        options = [f"`{key}`: {field.description}" for key, field in model.model_fields.items()]
        rows.append([f"`{name}`", _cell(sentence), "<br>".join(map(_cell, options))])
    return table(["metric", "value", "options"], rows, is_markdown=True)


TABLES = MappingProxyType({"configuration": configuration, "commands": commands, "checks": checks, "metrics": metrics})
"""What a page may ask for by name."""
