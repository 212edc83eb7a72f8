"""`readqg plan` looks at a corpus as `readqg run` would."""

import json

import pytest

from readqg import cli
from tests.test_pipeline import place  # noqa: F401  (a fixture)


def test_fields_of_the_documents_are_asked_for_and_documents_are_no_queries(place, tmp_path, capsys):  # noqa: F811
    rows = [f"{i},heading {i},the flow of the wing {i}" for i in range(30)]
    (tmp_path / "notes.csv").write_text("\n".join(["nr,heading,body", *rows]))
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", "--corpus", str(tmp_path / "notes.csv"), "--documents.id-field", "nr", "--documents.title-field", "heading",
                  "--documents.text-field", "body", "--prompts", str(place / "prompts"), "--backbone", str(place / "backbone"),
                  "--start", str(place / "start"), "--machine", "h100", "--json"])
    assert stop.value.code == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["corpus"]["documents"], found["corpus"]["queries"]) == (30, 0)
    assert "rank" not in found["stages"] and found["stages"]["generate"]["units"] > 0


def test_counts_alone_are_planned_whole_and_without_the_samples_queries(place, capsys):  # noqa: F811
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", "--document-count", "5000", "--mean-document-tokens", "75", "--prompts", str(place / "prompts"),
                  "--backbone", str(place / "backbone"), "--start", str(place / "start"), "--machine", "h100", "--json"])
    assert stop.value.code == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["corpus"]["documents"], found["corpus"]["queries"]) == (5000, 0)
    assert found["stages"]["generate"]["units"] == 2 * 5000 and "rank" not in found["stages"]
