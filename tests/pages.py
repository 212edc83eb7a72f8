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


def commands(page: Path) -> list[list[str]]:
    """The words after `readqg` of every command line: lines of code blocks, and code spans with flags."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^ *readqg ([a-z-]+(?: .*)?)$", text, re.MULTILINE) + re.findall(r"`readqg ([a-z-]+ [^`]*--[^`]*)`", text)
    return [shlex.split(line, comments=True) for line in lines]


def named(page: Path) -> set[str]:
    """Commands named in running text: `readqg NAME`."""
    return set(re.findall(r"`readqg ([a-z-]+)`", page.read_text()))


def references(page: Path) -> list[str]:
    """Python objects named `module:name`."""
    return re.findall(r"`(readqg[\w.]*:\w+)`", page.read_text())


def links(page: Path) -> list[str]:
    """Targets of links within the repository."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in target]
