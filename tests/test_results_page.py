"""RESULTS.md and its pictures are what the kept cells say."""

from tools import results


def test_the_committed_page_is_what_the_cells_give():
    for path, content in results.results().items():
        assert path.read_text() == content, f"a cell or a template has changed: renew the page with `{results.RENEW}`"
