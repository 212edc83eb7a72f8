"""The text of a PDF file, page by page."""

from __future__ import annotations

import io
import logging
import re
from typing import Any

from readqg.corpus.passages import Section, TextDocument

_BROKEN_WORD = re.compile(r"(?<=[a-zß-ÿ])-\n(?=[a-zß-ÿ])")
_LEADER = re.compile(r"(?:[ \t]*\.){4,}")  # the dots of a table of contents
_OFFICE = "docx?|odt|tex|dvi|indd|pdf"
_OTHERS = "rtf|txt|md|ps|qxd|x?html?|aspx?|php|pptx?|xlsx?|pages|tiff?|jpe?g|png"  # which may end a real title of several words
_NO_TITLE = re.compile(rf"^(untitled|microsoft \w+ - .*|.*\.({_OFFICE})|\S+\.({_OTHERS}))$", re.IGNORECASE)


class BadPdfError(ValueError):
    """No page of it can be read; the message says why."""


def pdf(raw: bytes) -> TextDocument:
    """One section; a page that cannot be read is among `bad_pages`. Raises `BadPdfError` where that is all of them, or where the
    file is damaged, locked by a password, or holds pictures of text."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it has mended, a line each; what it cannot mend is raised
    try:
        reader = PdfReader(io.BytesIO(raw))
        if reader.is_encrypted and not reader.decrypt(""):
            raise BadPdfError("locked by a password; save it without one")
        pages = len(reader.pages)
    except BadPdfError:
        raise
    except Exception as error:  # pypdf meets damage with whatever it runs into
        raise BadPdfError(f"damaged, or no PDF file ({_said(error)})") from None
    texts, bad = [], []
    for number in range(pages):
        try:
            texts.append(reader.pages[number].extract_text())
        except Exception as error:
            bad.append((number + 1, f"damaged page ({_said(error)})"))
    text = _LEADER.sub(" ...", _BROKEN_WORD.sub("", "\n\n".join(texts)))
    if not text.strip() and not bad:
        raise BadPdfError(f"no text on any of its {pages} pages; if it is a scan, run OCR on it first (ocrmypdf)")
    return TextDocument(_title(reader), [Section("", text)], bad)


def _title(reader: Any) -> str:
    """As the file's properties have it; empty where they have none, or only the name of another file."""
    try:
        title = (reader.metadata.title if reader.metadata else None) or ""
    except Exception:
        return ""
    title = " ".join(str(title).split())
    return "" if _NO_TITLE.match(title) else title


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
