"""A study's page: one self-contained HTML file, pictures inside, no scripts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from studies.base.words import decimals, shown

_CSS = """
:root { --ink: #1d2733; --soft: #5b6672; --line: #e3e7eb; --blue: #2563a8; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.6 "Inter", "Segoe UI", system-ui, sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.25; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 3rem 0 .8rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
p, li { max-width: 50rem; } .question { color: var(--soft); font-size: 1.05rem; margin: 0 0 1.6rem; }
.findings { border-left: 3px solid var(--blue); padding: .2rem 0 .2rem 1.1rem; font-size: 1.06rem; margin: 1.4rem 0;
  max-width: 54rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .9rem 1.4rem;
  margin: 1.6rem 0; }
.facts dt { color: var(--soft); font-size: .78rem; } .facts dd { margin: 0; font-variant-numeric: tabular-nums; }
figure { margin: 1.6rem 0 2.4rem; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .88rem; line-height: 1.5; margin-top: .6rem; max-width: 52rem; }
figcaption b { color: var(--ink); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; width: 100%; }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td { font-variant-numeric: tabular-nums; }
td.number, th.number { text-align: right; } td.first { min-width: 9rem; }
td small { color: var(--soft); display: block; }
code, pre { font: .84rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: #f6f8fa; padding: .8rem 1rem; border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere; }
"""

PIXELS_PER_POINT = 1.5  # figures are drawn at 150 dots an inch and shown at 100


@dataclass(frozen=True)
class Picture:
    """A figure: its PNG and what it shows, with n, seeds, interval and chance level."""

    path: Path
    title: str
    caption: str


@dataclass(frozen=True)
class Link:
    """Text in a table that leads to another page; ``href`` is relative."""

    text: str
    href: str


@dataclass(frozen=True)
class Noted:
    """Text in a table with a small line below it."""

    text: str
    note: str


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, paragraphs, figures, and tables of rows that share their keys.

    Paragraphs are plain text. ``explained`` is Markdown, such as a docstring; it comes first. ``commands`` come last.
    """

    heading: str
    paragraphs: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Sequence[Mapping[str, Any]]] = ()
    explained: str = ""
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        title: of the study.
        question: what it asks.
        findings: what was found, in sentences.
        facts: name to value: model, n, seeds.
        sections: in order.
        command: that made it.
    """

    title: str
    question: str
    findings: str
    facts: Mapping[str, Any]
    sections: Sequence[Section] = field(default_factory=tuple)
    command: str = ""


def render(report: Report) -> str:
    """The page as HTML."""
    facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in report.facts.items())
    body = "".join(_section(section) for section in report.sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(report.title)}</title>\n'
        f"<style>{_CSS}</style>\n</head>\n<body>\n<main>\n<h1>{escape(report.title)}</h1>\n"
        f'<p class="question">{escape(report.question)}</p>\n<p class="findings">{escape(report.findings)}</p>\n'
        f'<dl class="facts">{facts}</dl>\n{body}\n'
        f"<h2>Made by</h2>\n<pre>{escape(report.command)}</pre>\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.heading)}</h2>", MarkdownIt("js-default").render(section.explained)]
    parts += [f"<p>{escape(text)}</p>" for text in section.paragraphs]
    parts += [_picture(picture) for picture in section.pictures]
    parts += [_table(rows) for rows in section.tables if rows]
    parts += [f"<pre>{escape(command)}</pre>" for command in section.commands]
    return "\n".join(parts) + "\n"


def _picture(picture: Picture) -> str:
    png = picture.path.read_bytes()
    width = round(int.from_bytes(png[16:20], "big") / PIXELS_PER_POINT)
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img width="{width}" src="data:image/png;base64,{data}" alt="{escape(picture.title, quote=True)}">'
        f"<figcaption><b>{escape(picture.title)}.</b> {escape(picture.caption)}</figcaption></figure>"
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(rows[0])
    numeric = {name for name in columns if all(isinstance(row[name], int | float | None) for row in rows)}
    places = {name: decimals([row[name] for row in rows]) for name in numeric}

    def cell(tag: str, name: str, value: Any) -> str:
        kind = ' class="number"' if name in numeric else ' class="first"' if name == columns[0] else ""
        text = escape(value if tag == "th" else shown(value, places.get(name)))
        if isinstance(value, Link):
            text = f'<a href="{escape(value.href, quote=True)}">{escape(value.text)}</a>'
        if isinstance(value, Noted):
            text = escape(value.text) + (f" <small>{escape(value.note)}</small>" if value.note else "")
        return f"<{tag}{kind}>{text}</{tag}>"

    head = "".join(cell("th", name, name) for name in columns)
    body = "".join("<tr>" + "".join(cell("td", n, row[n]) for n in columns) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
