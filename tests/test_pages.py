"""What README and docs/ tell a reader to type, to import and to follow is there."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from readqg import cli
from tests import pages

COMMANDS = sorted({" ".join(words): (page.name, words) for page in pages.PAGES for words in pages.commands(page)}.items())


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that commands name as configs and experiments."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").symlink_to(pages.ROOT / "jobs")
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "_best.yaml").write_text("{}\n")
    return tmp_path


@pytest.mark.parametrize("page, words", [case for _, case in COMMANDS], ids=[f"{case[0]}: {line}" for line, case in COMMANDS])
def test_every_command_line_resolves(page, words, elsewhere, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--dry-run"])
    assert stop.value.code == 0, (page, capsys.readouterr().err)


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_exists(page):
    assert pages.named(page) <= {*cli.COMMANDS, "tune"}


def test_readme_and_the_page_on_the_paper_have_commands_to_check():
    assert len(pages.commands(pages.ROOT / "README.md")) > 20 and len(pages.commands(pages.ROOT / "docs" / "paper.md")) > 20


def test_every_function_named_in_the_page_on_the_paper_can_be_imported():
    names = pages.references(pages.ROOT / "docs" / "paper.md")
    assert len(names) > 20
    for module, _, name in (name.partition(":") for name in names):
        assert hasattr(import_module(module), name), f"{module} has no {name}"


def test_every_equation_and_table_of_the_paper_has_its_line():
    text = (pages.ROOT / "docs" / "paper.md").read_text()
    assert {f"Eq. {n}" for n in range(1, 7)} | {f"Table {n}" for n in range(1, 5)} <= set(re.findall(r"Eq\. \d|Table \d", text))


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page):
    for target in pages.links(page):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file.read_text()), target


def _anchors(text: str) -> set[str]:
    """As GitHub makes them of headings, and those written out."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings} | set(re.findall(r'<a id="([^"]+)"', text))
