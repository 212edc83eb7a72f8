"""Plain text, Markdown and HTML as titled sections. What is no text (scripts, navigation, link targets) is left out."""

from __future__ import annotations

import html as entities
import re
import warnings
from typing import Any

import yaml

from readqg.corpus.passages import Section, TextDocument, tidy

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_AFTER = {"td_close": " ", "th_close": " ", "tr_close": "\n", "paragraph_close": "\n\n", "table_close": "\n"}
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_NO_TEXT = {"script", "style", "noscript", "template", "nav", "footer", "aside", "svg", "iframe", "head", "select", "button"}
_INLINE = {"a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins", "kbd", "label", "mark", "q",
           "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr"}

_BREAKS = {"br": "\n", "li": "\n", "tr": "\n", "dt": "\n", "dd": "\n", "td": " ", "th": " "}
"""What follows an element that is a block; the others are paragraphs."""


def plain(text: str) -> TextDocument:
    """A text file: one section, no title."""
    return TextDocument("", [Section("", text.replace("\r\n", "\n").replace("\f", "\n\n"))])


def markdown(text: str) -> TextDocument:
    """A section a heading. The title is that of the front matter, else the first heading; where there is no front matter and several
    headings are of the first level, each of these is the title of what stands under it."""
    from markdown_it import MarkdownIt

    text = text.replace("\r\n", "\n")
    title, body = _front_matter(text)
    sections: list[tuple[str, list[str]]] = [("", [])]
    parts = [""]  # of each section, the heading of the first level that it is under
    in_heading = first_level = False
    for token in MarkdownIt("commonmark").enable("table").parse(body):
        if token.type in ("heading_open", "heading_close"):
            in_heading, first_level = token.type == "heading_open", token.tag == "h1" and token.level == 0  # in a quotation it is deeper
        elif token.type == "inline" and in_heading:
            heading = tidy(_inline(token))
            sections.append((heading, []))
            parts.append(heading if first_level and heading else parts[-1])
        elif token.type == "inline":
            sections[-1][1].append(_inline(token))
        elif token.type in ("fence", "code_block"):
            sections[-1][1].append(token.content + "\n")
        elif token.type == "html_block":
            sections[-1][1].append(_without_tags(token.content))
        else:
            sections[-1][1].append("\n" if token.hidden and token.type == "paragraph_close" else _AFTER.get(token.type, ""))
    several = not title and len(set(parts) - {""}) > 1
    found = [Section(heading, "".join(pieces), part if several else "") for (heading, pieces), part in zip(sections, parts, strict=True)]
    return TextDocument(title or next((s.heading for s in found if s.heading), ""), found)


def _front_matter(text: str) -> tuple[str, str]:
    """(title, the text after it)."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return "", text
    try:
        values = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return "", text
    if not isinstance(values, dict):
        return "", text
    title = values.get("title")
    return (title if isinstance(title, str) else ""), text[match.end():]


def _inline(token: Any) -> str:
    pieces = []
    for child in token.children or []:
        if child.type in ("text", "code_inline", "image"):
            pieces.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            pieces.append("\n")
    return "".join(pieces)


def _without_tags(markup: str) -> str:
    return entities.unescape(re.sub(r"<!--.*?-->|<[^>]*>", " ", markup, flags=re.DOTALL)) + "\n"


def html(text: str) -> TextDocument:
    """A section a heading, of <main> where the page has one. The title is <title>, else the first heading."""
    from bs4 import BeautifulSoup

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pages that look like a file name, or like XML, are read all the same
        soup = BeautifulSoup(text, "html.parser")
    title = tidy(soup.title.get_text()) if soup.title is not None else ""
    found = _sections(soup.find("main") or soup.body or soup)
    return TextDocument(title or next((s.heading for s in found if s.heading), ""), found)


def _sections(root: Any) -> list[Section]:
    """In the order of the page. The stack holds what is still to come, strings (breaks) and (node, whether in <pre>)."""
    from bs4 import NavigableString, Tag

    sections: list[tuple[str, list[str]]] = [("", [])]
    stack: list[Any] = [(root, False)]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            sections[-1][1].append(item)
            continue
        node, in_pre = item
        if type(node) is NavigableString:
            sections[-1][1].append(str(node) if in_pre else re.sub(r"\s+", " ", node))
        if not isinstance(node, Tag) or node.name in _NO_TEXT:
            continue
        if node.name in _HEADINGS:
            sections.append((re.sub(r"\s+", " ", node.get_text()).strip(), []))
            continue
        after = "" if node.name in _INLINE else _BREAKS.get(node.name, "\n\n")
        stack.append(after)
        stack += [(child, in_pre or node.name == "pre") for child in reversed(node.contents)]
        if after == "\n\n":
            stack.append(after)
    return [Section(heading, "".join(pieces)) for heading, pieces in sections]
