"""Which columns a table has, which are wanted, and the flags that would bring the two together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_USUAL = {
    "id": ("id", "docid", "documentid", "pid", "passageid", "key", "uid", "uuid", "number", "no", "nr", "identifier", "code", "url"),
    "text": ("text", "body", "content", "contents", "abstract", "passage", "description", "answer", "document", "article", "summary"),
    "title": ("title", "headline", "heading", "name", "subject", "question"),
}


def explain_columns(absent: Mapping[str, Sequence[str]], found: Sequence[str], numbered: str) -> str:
    """What to say where columns are absent. `absent`: id or text -> the names that were looked for; `numbered`: what `--id-field`
    takes where there are no ids."""
    wanted = " and ".join(f"no column for the {what} ({' or '.join(dict.fromkeys(names))})" for what, names in absent.items())
    flags, of_run = (" and ".join(f"--{stage}{what}-field" for what in absent) for stage in ("", "documents."))
    no_ids = f" A table without ids: --id-field {numbered} takes the number of the line." if "id" in absent else ""
    return (f"{wanted}. Its columns: {', '.join(found) or 'none'}. Name the right one with {flags}{_for_instance(absent, found)} "
            f"(in `readqg run`: {of_run}; for a command without such flags, `readqg import` the table first and give that folder; the "
            f"first line must hold the names).{no_ids}")


def title_hint(field: str, found: Sequence[str] | None) -> str:
    """What to add where a table's rows have no title in `field`; nothing where that column is there, or the rows have no common ones."""
    if not found or field in found:
        return ""
    guessed = guess("title", found)
    return f"; its columns: {', '.join(found)}. Name one with --title-field{f', perhaps {_shown(guessed)}' if guessed else ''}"


def guess(what: str, found: Sequence[str]) -> str | None:
    """The column that by its name is probably the id, title or text."""
    plain = {"".join(c for c in name.lower() if c.isalnum()): name for name in reversed(found)}
    return next((plain[name] for name in _USUAL[what] if name in plain), None)


def _for_instance(absent: Mapping[str, Sequence[str]], found: Sequence[str]) -> str:
    guessed = {what: name for what in absent if (name := guess(what, found)) is not None}
    flags = " ".join(f"--{what}-field {_shown(name)}" for what, name in guessed.items())
    return f", perhaps {flags}" if flags else ""


def _shown(name: str) -> str:
    return f"'{name}'" if " " in name else name
