"""A folder of text files: passages that name their document, and one bad file costs one file."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readqg.config import ImportConfig, ImportSettings
from readqg.corpus import Documents, import_corpus, markup, text_files
from readqg.corpus.passages import cut
from readqg.errors import ConfigError, InputError
from tests.text_samples import pdf_bytes

WORDS = " ".join(f"word{i}" for i in range(50))
GUIDE = f"""---
title: The guide
---
Before any heading {WORDS}.

# Setting up

Install **the package** with `pip`, see [the page](https://example.org/x) for more.
{WORDS}

```sh
# no heading
make run
```

| name | value |
| --- | --- |
| port | 8080 |

Using it
--------

{WORDS} <b>boldly</b>.
"""
PAGE = f"""<html><head><title>A page</title><script>var hidden = 1</script></head><body>
<nav>Home | About</nav><main><h1>A page</h1><p>First&nbsp;paragraph of <em>the</em> page {WORDS}.</p>
<h2>Details <small>here</small></h2><ul><li>one {WORDS}</li><li>two</li></ul><pre>a
 b</pre></main><footer>All rights reserved</footer></body></html>"""


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def do(source: Path, out: Path, **settings):
    return import_corpus(ImportConfig(source=str(source), out=str(out), **settings))


def rejected(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "_rejected.jsonl").read_text().splitlines()]


def found(out: Path) -> dict[str, dict]:
    return {row["doc_id"]: row for row in Documents.open(out)}


def test_every_kind_of_file_at_any_depth_becomes_passages_that_name_their_document(tmp_path):
    source = write(tmp_path / "in", {
        "guide/setup.md": GUIDE, "page.html": PAGE, "old notes_2.txt": "plain text of the notes",
        "manual.pdf": pdf_bytes(["Page one", "two"]), ".hidden/x.md": "# not read", "picture.png": b"\x89PNG"})
    summary = do(source, tmp_path / "out")
    rows = found(tmp_path / "out")
    assert list(rows) == ["guide/setup.md#1", "guide/setup.md#2", "guide/setup.md#3", "manual.pdf#1", "old%20notes_2.txt#1", "page.html#1",
                          "page.html#2"]
    assert [row["title"] for row in rows.values()] == ["The guide", "The guide: Setting up", "The guide: Using it", "manual", "old notes 2",
                                                       "A page", "A page: Details here"]
    assert summary.text_files == 4 and summary.rows == {"documents": 7} and summary.rejected == {"documents": 0}
    assert summary.warnings == ["in: 1 files of other kinds are left out (1 .png)."]


def test_markdown_is_read_as_text(tmp_path):
    do(write(tmp_path / "in", {"guide.md": GUIDE}), tmp_path / "out")
    rows = found(tmp_path / "out")
    text = rows["guide.md#2"]["text"]
    assert text.startswith("Install the package with pip, see the page for more.") and "example.org" not in text and "`" not in text
    assert "# no heading\nmake run" in text and "port 8080" in text
    assert rows["guide.md#3"]["text"].endswith("word49 boldly.")


def test_html_is_read_as_text(tmp_path):
    do(write(tmp_path / "in", {"page.html": PAGE}), tmp_path / "out")
    rows = found(tmp_path / "out")
    assert rows["page.html#1"]["text"] == f"First paragraph of the page {WORDS}."
    assert rows["page.html#2"]["text"] == f"one {WORDS}\ntwo\n\na\nb"


def test_a_pdf_has_its_title_and_its_pages_in_order(tmp_path):
    do(write(tmp_path / "in", {"a.pdf": pdf_bytes(["First page . . . . . 1", "Second page."], title="The handbook"),
                               "b.pdf": pdf_bytes(["text"], title="report.docx"), "c.pdf": pdf_bytes(["text"], title="print.html"),
                               "d.pdf": pdf_bytes(["text"], title="On robots.txt")}), tmp_path / "out")
    rows = found(tmp_path / "out")
    assert [rows[f"{name}.pdf#1"]["title"] for name in "abcd"] == ["The handbook", "b", "c", "On robots.txt"]
    assert rows["a.pdf#1"]["text"].split() == ["First", "page", "...", "1", "Second", "page."]


def test_one_file_alone_is_a_corpus_too(tmp_path):
    write(tmp_path, {"manual.pdf": pdf_bytes(["Some text"])})
    do(tmp_path / "manual.pdf", tmp_path / "out")
    assert list(found(tmp_path / "out")) == ["manual.pdf#1"]


BAD = {
    "cut.pdf": (pdf_bytes(["text"])[:150], "damaged, or no PDF file"),
    "scan.pdf": (pdf_bytes(["", ""]), "no text on any of its 2 pages; if it is a scan, run OCR"),
    "latin.txt": (b"caf\xe9 au lait", "not valid UTF-8; save it as UTF-8"),
    "latin.md": (b"caf\xe9 au lait", "not valid UTF-8"),
    "empty.txt": (b" \n", "holds no text"),
    "empty.html": (b"<html><body><script>x</script></body></html>", "holds no text"),
    "heading.md": (b"# only a heading\n", "holds no text"),
    "archive.txt": (b"\x1f\x8bnonsense", "gzip file is damaged"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_file_is_set_aside_with_its_name_and_reason(tmp_path, name):
    content, reason = BAD[name]
    source = write(tmp_path / "in", {"a/b.txt": "good text", f"sub/{name}": content, "z.txt": "more good text"})
    summary = do(source, tmp_path / "out")
    row, = rejected(tmp_path / "out")
    assert row["file"] == str(source / "sub" / name) and reason in row["reason"]
    assert list(found(tmp_path / "out")) == ["a/b.txt#1", "z.txt#1"]
    assert summary.warnings[0].startswith("in: 1 of 3 files cannot be used") and f"sub/{name}: " in summary.warnings[0]


def test_a_bad_page_is_set_aside_with_its_number_and_the_others_are_kept(tmp_path):
    do(write(tmp_path / "in", {"a.pdf": pdf_bytes(["one", "two", "three"], broken_page=2)}), tmp_path / "out")
    row, = rejected(tmp_path / "out")
    assert row["page"] == 2 and "damaged page" in row["reason"]
    assert found(tmp_path / "out")["a.pdf#1"]["text"].split() == ["one", "three"]


def test_too_many_bad_files_stop_the_import(tmp_path):
    source = write(tmp_path / "in", {"a.txt": "good", "b.txt": b"\xff", "c.txt": b"\xff"})
    with pytest.raises(InputError, match=r"2 of 3 files cannot be used; 1 may be bad:\n  b\.txt: [^~]*--max-rejected-file"):
        do(source, tmp_path / "out")
    assert do(source, tmp_path / "out", max_rejected_file_share=0.7).rows == {"documents": 1}


def test_every_file_that_cannot_be_used_is_named_as_it_is(tmp_path):
    summary = do(write(tmp_path / "in", {"a.txt": "good", "b.txt": "too", "Übergabe Büro.txt": b"\xfc", "leer.txt": ""}), tmp_path / "out")
    for said in ("Übergabe Büro.txt: not valid UTF-8; save it as UTF-8", "leer.txt: holds no text"):
        assert said in summary.warnings[0]
    assert "Übergabe Büro.txt" in (tmp_path / "out" / "_rejected.jsonl").read_text()
    assert all("line" not in row for row in rejected(tmp_path / "out"))


@pytest.mark.parametrize(("module", "file"), [("pypdf", "a.pdf"), ("bs4", "a.html")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, module, file):
    monkeypatch.setattr(text_files, "find_spec", lambda name: None if name == module else object())
    with pytest.raises(ConfigError, match=rf"{file} cannot be read .*\({module}\): pip install 'readqg\[files\]'"):
        do(write(tmp_path / "in", {file: "x", "b.txt": "y"}), tmp_path / "out")
    (tmp_path / "in" / file).unlink()
    assert do(tmp_path / "in", tmp_path / "out").rows == {"documents": 1}


@pytest.mark.parametrize(("content", "text"), [
    ("\ufeffcafé".encode(), "café"), ("café".encode("utf-16"), "café"),
    ("<meta charset=latin-1><p>café".encode("latin-1"), "café"), ("<meta charset='no-such'><p>café".encode(), "café")])
def test_encodings_that_a_file_declares_are_read(tmp_path, content, text):
    name = "a.html" if b"meta" in content else "a.txt"
    do(write(tmp_path / "in", {name: content}), tmp_path / "out")
    assert found(tmp_path / "out")[f"{name}#1"]["text"] == text


def test_without_cutting_a_document_is_its_file(tmp_path):
    source = write(tmp_path / "in", {"a.md": GUIDE, "b.txt": WORDS * 20})
    do(source, tmp_path / "out", passage_words=0, passage_by_heading=False)
    rows = found(tmp_path / "out")
    assert list(rows) == ["a.md", "b.txt"] and "Setting up\nInstall" in rows["a.md"]["text"]


def test_short_sections_are_joined_to_the_one_before(tmp_path):
    source = write(tmp_path / "in", {"a.md": f"# T\n\n{WORDS}\n\n## One\n\nshort\n\n## Empty\n\n## Two\n\n{WORDS}"})
    do(source, tmp_path / "out")
    rows = list(found(tmp_path / "out").values())
    assert [row["title"] for row in rows] == ["T", "T: Two"] and rows[0]["text"] == f"{WORDS}\n\nOne\nshort"


def test_each_of_several_headings_of_the_first_level_is_a_title_of_its_own(tmp_path):
    text = f"# Cars\n\n{WORDS}\n\n## Wheels\n\n{WORDS}\n\n# Boats\n\n{WORDS}\n\n## Sails\n\n{WORDS}"
    do(write(tmp_path / "in", {"a.md": text, "b.md": f"---\ntitle: Both\n---\n{text}"}), tmp_path / "out")
    titles = [row["title"] for row in found(tmp_path / "out").values()]
    assert titles == ["Cars", "Cars: Wheels", "Boats", "Boats: Sails", "Both: Cars", "Both: Wheels", "Both: Boats", "Both: Sails"]


def test_short_texts_under_headings_of_their_own_stay_apart_and_a_quoted_heading_is_none_of_them(tmp_path):
    text = f"# Alpha\n\nfirst\n\n# Beta\n\nsecond\n\n#\n\n## Two\n\n{WORDS}\n\n> # Note\n\n## Next\n\n{WORDS}"
    do(write(tmp_path / "in", {"a.md": text}), tmp_path / "out")
    titles = [row["title"] for row in found(tmp_path / "out").values()]
    assert titles[0] == "Alpha" and "second" not in found(tmp_path / "out")["a.md#1"]["text"]
    assert all(title.startswith("Beta") for title in titles[1:])


def test_the_same_command_goes_on_and_a_changed_file_is_refused(tmp_path):
    source = write(tmp_path / "in", {f"{i:02d}.txt": f"text {i}" for i in range(10)})
    first = do(source, tmp_path / "out", shard_rows=3)
    folder = tmp_path / "out" / "documents"
    before = {part.name: part.read_bytes() for part in folder.glob("part-*")}
    (folder / "_SUCCESS").unlink()
    (folder / "part-00001-of-00004.parquet").unlink()
    assert do(source, tmp_path / "out", shard_rows=3) == first
    assert {part.name: part.read_bytes() for part in folder.glob("part-*")} == before
    (source / "03.txt").write_text("changed")
    with pytest.raises(Exception, match=r"inputs\.source"):
        do(source, tmp_path / "out", shard_rows=3)


def test_a_raw_folder_is_read_as_an_imported_one(tmp_path):
    source = write(tmp_path / "in", {"a.md": GUIDE, "b.txt": WORDS})
    do(source, tmp_path / "out")
    assert list(Documents.open(source)) == list(Documents.open(tmp_path / "out"))


def test_too_much_overlap_is_refused():
    with pytest.raises(ValueError, match="passage_overlap_words is 30, more than half of passage_words"):
        ImportSettings(passage_words=50)


def test_deep_markup_is_read():
    assert markup.html("<div>" * 3000 + "deep" + "</div>" * 3000).sections[0].text.strip() == "deep"
    assert markup.markdown(">" * 3000 + " deep").title == ""


@given(st.text(st.sampled_from("ab.語 \n"), max_size=200), st.integers(1, 12), st.data())
def test_pieces_hold_every_word_in_order_and_are_not_too_long(text, words, data):
    overlap = data.draw(st.integers(0, words // 2))
    pieces = list(cut(text, words, overlap))
    lengths = [len(list(cut(piece, 1, 0))) for piece in pieces]
    assert all(0 < length <= words for length in lengths)
    singles, joined = list(cut(text, 1, 0)), []
    for piece in pieces:
        joined += list(cut(piece, 1, 0))[overlap if joined else 0:]
    assert joined == singles


def test_a_piece_ends_with_a_sentence_where_one_ends():
    assert list(cut("a b c d. e f g h i. j k", 6, 0)) == ["a b c d.", "e f g h i.", "j k"]
    assert list(cut("a b c d e f g", 4, 1)) == ["a b c d", "d e f g"]
