"""`readqg inspect` shows the queries that are asked for, the worst first."""

import json

import pyarrow as pa
import pytest

from readqg import cli, inspecting
from readqg.config import InspectConfig
from readqg.corpus.rows import SCHEMAS
from readqg.errors import ConfigError, InputError
from readqg.evaluation.quality import QUALITY
from readqg.generator.generate import QUERIES
from tests.builders import write_folder

ROWS = [
    # doc_id, relevance, query, log_likelihood, n_tokens
    ("d1", 1.0, "what is a wing", -4.0, 4), ("d1", 0.0, "what is  A shock", -12.0, 4),
    ("d2", 1.0, "what is a shock", -20.0, 4), ("d2", 0.0, "flow [bold]of\x1b[31m heat", -2.0, 4),
    ("d3", 1.0, "", None, None), ("d3", 0.0, None, None, None),
]


@pytest.fixture
def queries(tmp_path):
    rows = [{"doc_id": d, "relevance": r, "sample": 0, "query": q, "log_likelihood": s, "n_tokens": n,
             "error": "too long" if q is None else None} for d, r, q, s, n in ROWS]
    return str(write_folder(tmp_path / "queries", rows, QUERIES))


def shown(queries, **fields):
    return [row["query"] for row in inspecting.inspect(InspectConfig(queries=queries, **fields))["rows"]]


def test_the_least_likely_come_first_and_those_without_likelihood_last(queries):
    assert shown(queries) == ["what is a shock", "what is  A shock", "what is a wing", "flow [bold]of\x1b[31m heat", None, ""]
    assert shown(queries, limit=2) == ["what is a shock", "what is  A shock"]
    assert len(shown(queries, limit=0)) == 6


@pytest.fixture
def documents(tmp_path):
    texts = {"d1": "a wing", "d2": "shock " * 60, "d3": "", "d4": " "}
    rows = [{"doc_id": d, "title": f"On {d}" if d != "d4" else "", "text": text} for d, text in texts.items()]
    return str(write_folder(tmp_path / "documents", rows, SCHEMAS["documents"]))


def test_the_beginning_of_each_query_s_document_stands_beside_it(queries, documents, capsys):
    rows = inspecting.inspect(InspectConfig(queries=queries, documents=documents, limit=2))["rows"]
    assert [row["beginning"] for row in rows] == ["On d2 " + ("shock " * 16)[:94] + "…", "On d1 a wing"]
    assert "begins" in capsys.readouterr().err
    inspecting.inspect(InspectConfig(queries=queries))
    assert "begins" not in capsys.readouterr().err, "a column that is empty is left out"


def test_a_folder_without_the_queries_documents_is_refused(queries, tmp_path):
    other = write_folder(tmp_path / "other", [{"doc_id": "x", "title": "", "text": "y"}], SCHEMAS["documents"])
    with pytest.raises(InputError, match="has none of these queries' documents, such as d2"):
        inspecting.inspect(InspectConfig(queries=queries, documents=str(other)))


@pytest.mark.parametrize("flag", [{"errors": True}, {"duplicates": True}, {"relevance": 1.0}, {"sort": "times"}])
def test_what_is_for_queries_is_refused_of_documents(documents, flag):
    with pytest.raises(ConfigError, match=f"--{next(iter(flag))}: for a queries folder"):
        inspecting.inspect(InspectConfig(queries=documents, **flag))


def test_documents_are_shown_the_shortest_first(documents, capsys):
    found = inspecting.inspect(InspectConfig(queries=documents))
    assert [(row["doc_id"], row["words"]) for row in found["rows"]] == [("d3", 0), ("d4", 0), ("d1", 2), ("d2", 60)]
    assert (found["documents"], found["empty"], found["median_words"], found["matching"]) == (4, 1, 1.0, 4), "a title is no nothing"
    assert "a wing" in capsys.readouterr().err
    assert [row["doc_id"] for row in inspecting.inspect(InspectConfig(queries=documents, grep="WING"))["rows"]] == ["d1"]
    inspecting.inspect(InspectConfig(queries=documents, grep="no such"))
    assert "No document fits." in capsys.readouterr().err


def test_likelihood_is_a_token(queries):
    found = inspecting.inspect(InspectConfig(queries=queries))
    assert [row["per_token"] for row in found["rows"]] == [-5.0, -3.0, -1.0, -0.5, None, None]
    assert {k: found[k] for k in ("queries", "distinct", "empty", "errors", "matching")} == {
        "queries": 6, "distinct": 3, "empty": 1, "errors": 1, "matching": 6}


@pytest.mark.parametrize("fields, expected", [
    ({"relevance": 1.0}, ["what is a shock", "what is a wing", ""]),
    ({"min_likelihood": -1.0}, ["what is a wing", "flow [bold]of\x1b[31m heat"]),
    ({"max_likelihood": -3.0}, ["what is a shock", "what is  A shock"]),
    ({"duplicates": True}, ["what is  A shock", "what is a shock"]),
    ({"errors": True}, [None]),
    ({"grep": "WING|heat$"}, ["what is a wing", "flow [bold]of\x1b[31m heat"]),
    ({"grep": "shock", "relevance": 0.0}, ["what is  A shock"]),
])
def test_filters(queries, fields, expected):
    assert shown(queries, **fields) == expected


def test_with_quality_the_worst_for_their_relevance_come_first(queries, tmp_path):
    judged = [("d1", 0.9, 0.8), ("d2", 0.3, 0.1)]
    rows = [{name: None for name in QUALITY.names} | {"doc_id": d, "rel_plus": p, "rel_minus": m} for d, p, m in judged]
    quality = str(write_folder(tmp_path / "quality", rows, QUALITY))
    found = inspecting.inspect(InspectConfig(queries=queries, quality=quality, sort="score", limit=4))["rows"]
    assert [(row["doc_id"], row["relevance"]) for row in found] == [("d1", 0.0), ("d2", 0.0), ("d2", 1.0), ("d1", 1.0)]
    assert found[0]["score"] == pytest.approx(0.8)


def test_what_a_model_wrote_is_shown_without_markup_or_control_characters(queries, capsys):
    shown(queries)
    table = capsys.readouterr().err
    assert "[bold]of·[31m heat" in table and "too long" in table


def test_a_pattern_that_is_none_and_a_folder_of_other_rows_are_explained(queries, tmp_path):
    with pytest.raises(ConfigError, match="regular expression"):
        shown(queries, grep="(")
    other = write_folder(tmp_path / "other", [{"x": 1}], pa.schema([("x", pa.int64())]))
    with pytest.raises(InputError, match="no column"):
        shown(str(other))


def test_the_command_gives_rows_as_json(queries, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", queries, "--relevance", "1", "--limit", "1", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert stop.value.code == 0 and [row["doc_id"] for row in said["rows"]] == ["d2"]


def test_what_later_stages_added_is_shown_and_sorted_by(tmp_path, capsys):
    schema = pa.schema([*QUERIES, ("rank", pa.int32()), ("ratio", pa.float32()), ("start_score", pa.float32())])
    added = [(1.0, 1, 4.0, 2.0), (1.0, None, -1.0, 3.0), (1.0, 7, 2.0, -5.0), (0.0, 2, 3.0, 1.0)]
    rows = [{"doc_id": f"d{i}", "relevance": r, "sample": 0, "query": f"q{i}", "log_likelihood": None, "n_tokens": None, "error": None,
             "rank": rank, "ratio": ratio, "start_score": score} for i, (r, rank, ratio, score) in enumerate(added)]
    folder = str(write_folder(tmp_path / "all", rows, schema))
    assert shown(folder, sort="rank", relevance=1.0) == ["q1", "q2", "q0"] and shown(folder, sort="rank", relevance=0.0) == ["q3"]
    assert shown(folder, sort="rank") == ["q1", "q3", "q2", "q0"], "a negative that finds its document is worse than a positive that does"
    assert shown(folder, sort="ratio", relevance=1.0) == ["q1", "q2", "q0"]
    assert shown(folder, sort="start_score", relevance=1.0) == ["q2", "q0", "q1"]
    told = capsys.readouterr().err
    assert "start's score" in told and "nats/token" not in told, "a column that is empty is left out"
    bare = str(write_folder(tmp_path / "bare", [{k: v for k, v in row.items() if k in QUERIES.names} for row in rows], QUERIES))
    with pytest.raises(ConfigError, match=r"--sort rank: .* no such column; give what `readqg round-trip` made of it"):
        shown(bare, sort="rank")


def test_queries_made_elsewhere_come_by_how_often_they_occur(tmp_path):
    rows = [{"doc_id": f"d{i}", "relevance": 1.0, "sample": 0, "query": query, "log_likelihood": None, "n_tokens": None, "error": None}
            for i, query in enumerate(["once", "twice", "once again", "twice"])]
    assert shown(str(write_folder(tmp_path / "queries", rows, QUERIES)))[:2] == ["twice", "twice"]
