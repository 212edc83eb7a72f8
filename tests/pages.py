"""What tests read out of Markdown pages."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of one language, in a page."""
    return blocks_of(page.read_text(), language)


def blocks_of(text: str, language: str) -> list[str]:
    """The same in Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def command_lines(page: Path) -> list[list[str]]:
    """The words after `readqg` of every line of a code block that begins with it."""
    lines = re.findall(r"^ *readqg ([a-z-]+(?: .*)?)$", _joined(page), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def commands(page: Path) -> list[list[str]]:
    """The same, and code spans with flags."""
    spans = re.findall(r"`readqg ([a-z-]+ [^`]*--[^`]*)`", _joined(page))
    return command_lines(page) + [shlex.split(span, comments=True) for span in spans]


def named(page: Path) -> set[str]:
    """Commands named in running text: `readqg NAME`."""
    return set(re.findall(r"`readqg ([a-z-]+)`", page.read_text()))


def references(page: Path) -> list[str]:
    """Python objects named `module:name`."""
    return re.findall(r"`(readqg[\w.]*:\w+)`", page.read_text())


def _joined(page: Path) -> str:
    return page.read_text().replace("\\\n", " ")


def links(page: Path) -> list[str]:
    """Targets of links within the repository."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in target]
