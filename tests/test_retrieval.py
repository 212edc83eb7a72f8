"""BM25: Lucene's analysis and formula, order, and what happens with little or strange text."""

import csv
import json
import logging
import math
from collections import Counter

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readqg.config import RetrieveConfig, RetrieveSettings, identity
from readqg.corpus import Documents, read_judgments, read_texts
from readqg.errors import ConfigError, InputError
from readqg.evaluation.metrics import evaluate
from readqg.local import run_here
from readqg.retrieval import Bm25, RetrieveStage, bm25_run
from readqg.runs import read_run, read_trec, write_trec_beside
from readqg.shards import OutputFolder, stable_hash, verify


def doc(doc_id, text="", title=""):
    return {"doc_id": doc_id, "title": title, "text": text}


def matches(text, query):
    return bool(bm25_run([doc("d", text), doc("other", "zebra")], {"q": query}, fields="flat")["q"])


WINGS = [
    doc("1", "the lift of a wing", "wings"), doc("2", "wing flutter at high speed", "flutter of wings"),
    doc("3", "heat transfer"),
]
WORDS = st.lists(st.sampled_from(["wing", "lift", "drag", "heat", "s"]), max_size=6).map(" ".join)


def lucene(texts, query, k1, b):
    """Lucene's formula, written out; statistics over the documents that have the field."""
    bags = [Counter(text.split()) for text in texts]
    there = [bag for bag in bags if bag]
    mean_length = sum(bag.total() for bag in there) / max(len(there), 1)
    scores = []
    for bag in bags:
        score = 0.0
        for word in query.split():
            n = sum(word in other for other in there)
            idf = math.log(1 + (len(there) - n + 0.5) / (n + 0.5))
            if bag[word]:
                score += idf * bag[word] / (bag[word] + k1 * (1 - b + b * bag.total() / mean_length))
        scores.append(score)
    return scores


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=7), WORDS, st.floats(0.1, 3), st.floats(0, 1))
def test_scores_are_lucenes_formula_field_by_field(texts, query, k1, b):
    documents = [doc(f"d{i}", text, title) for i, (title, text) in enumerate(texts)]
    for fields in ("multifield", "flat"):
        parts = list(zip(*texts, strict=True)) if fields == "multifield" else [[f"{title} {text}" for title, text in texts]]
        expected = [sum(scores) for scores in zip(*(lucene(part, query, k1, b) for part in parts), strict=True)]
        found = bm25_run(documents, {"q": query}, fields=fields, k1=k1, b=b)["q"]
        assert found == pytest.approx({f"d{i}": score for i, score in enumerate(expected) if score}, rel=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=7), st.lists(WORDS, max_size=3))
def test_an_index_of_the_words_that_are_asked_for_scores_as_one_of_all(texts, queries):
    documents = [doc(f"d{i}", text, title) for i, (title, text) in enumerate(texts)]
    for fields in ("multifield", "flat"):
        chosen = RetrieveSettings(fields=fields)
        whole, part = Bm25(documents, chosen), Bm25(documents, chosen, queries)
        assert all(part.search("q", query) == whole.search("q", query) for query in queries)


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=9), WORDS, st.integers(1, 5), st.randoms())
def test_order_of_input_changes_nothing_and_a_cut_is_the_head_of_the_whole(texts, query, top_k, random):
    documents = [doc(f"d{i}", text) for i, text in enumerate(texts)]
    whole = bm25_run(documents, {"q": query}, top_k=100)["q"]
    random.shuffle(documents)
    cut = bm25_run(iter(documents), {"q": query}, top_k=top_k)["q"]
    assert list(cut) == list(whole)[:top_k]


def test_ties_at_the_cut_go_to_the_higher_doc_id():
    documents = [doc(doc_id, "same words") for doc_id in ("9", "10", "z", "a")]
    assert list(bm25_run(documents, {"q": "words"}, top_k=2)["q"]) == ["z", "a"]


@pytest.mark.parametrize(("text", "query"), [
    ("Running runners", "run"), ("Alzheimer's disease", "alzheimer"), ("ALZHEIMER’S", "alzheimers"), ("U.S.A", "u.s.a"),
    ("naïve café", "CAFÉ"), ("mach 2.5 flow", "2.5"), ("snake_case", "snake"), ("don't", "don't"), ("x (wing)", "wing!"),
])
def test_words_meet_as_in_lucenes_english_analysis(text, query):
    assert matches(text, query)


@pytest.mark.parametrize(("text", "query"), [
    ("the of and", "the of and"), ("It's", "it's"), ("mach 2.5", "5"), ("", "wing"), ("wing", ""), ("wing", "?!"),
    ("wing", "quark"), ("\x00 \ud800", "\ud800"),
])
def test_stop_words_and_words_that_are_not_there_match_nothing(text, query):
    assert not matches(text, query)


def test_a_title_counts_beside_the_text_and_a_word_of_one_field_only_is_no_error():
    run = bm25_run(WINGS, {"both": "flutter", "title": "wings", "text": "heat"})
    assert list(run["both"]) == ["2"]
    assert list(run["title"]) == ["1", "2"]
    assert list(run["text"]) == ["3"]


@pytest.mark.parametrize("missing", [{}, {"title": ""}, {"title": None}])
def test_a_corpus_without_titles_is_ranked_by_its_texts(missing):
    documents = [{"doc_id": str(i), "text": text, **missing} for i, text in enumerate(["wing lift", "heat"])]
    multifield, flat = (bm25_run(documents, {"q": "lift"}, fields=fields) for fields in ("multifield", "flat"))
    assert list(multifield["q"]) == ["0"]
    assert multifield == flat


def test_documents_of_which_none_has_a_word_give_empty_results():
    assert bm25_run([doc("1"), doc("2", "the", "?")], {"q": "wing", "r": ""}) == {"q": {}, "r": {}}


def test_fewer_documents_than_asked_are_all_that_match():
    assert len(bm25_run(WINGS, {"q": "wing heat"}, top_k=1000)["q"]) == 3


def test_no_queries_give_an_empty_run():
    assert bm25_run(WINGS, {}) == {}


def test_drop_self_removes_only_the_querys_own_document_and_fills_its_place():
    documents = [doc(doc_id, "same words") for doc_id in "abc"]
    queries = {"c": "words", "q": "words"}
    assert {q: list(found) for q, found in bm25_run(documents, queries, top_k=2, drop_self=True).items()} == {
        "c": ["b", "a"], "q": ["c", "b"]}
    assert list(bm25_run(documents, queries, top_k=2)["c"]) == ["c", "b"]


def test_query_ids_that_are_document_ids_are_warned_of_unless_dropped(caplog):
    with caplog.at_level(logging.WARNING, "readqg"):
        bm25_run(WINGS, {"1": "wing", "q": "wing"}, drop_self=True)
        assert not caplog.text
        bm25_run(WINGS, {"1": "wing", "q": "wing"})
    assert "1 of 2 query ids are document ids too" in caplog.text


@pytest.mark.parametrize(("documents", "told"), [
    ([], "corpus is empty"),
    ([doc("1", "a"), doc("2", "b"), doc("1", "c")], "'1' stands twice"),
    ([doc("1", "a"), {"text": "b"}], "document 2: doc_id is None"),
    ([doc(1, "a")], "document 1: doc_id is 1"),
    ([doc("\ud800", "a")], "no valid Unicode"),
])
def test_bad_documents_are_refused(documents, told):
    with pytest.raises(InputError, match=told):
        bm25_run(documents, {"q": "wing"})


@pytest.mark.parametrize("setting", [{"fields": "title"}, {"top_k": 0}, {"b": 2.0}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError):
        bm25_run(WINGS, {"q": "wing"}, **setting)


def beir(folder, queries, judged):
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": d["doc_id"], "title": d["title"], "text": d["text"]} for d in WINGS]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": q, "text": t}) + "\n" for q, t in queries.items()))
    lines = [f"{query_id}\t1\t1\n" for query_id in judged]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def retrieve(source, out, **settings):
    config = RetrieveConfig(documents=str(source), queries=str(source), out=str(out), **settings)
    stage = RetrieveStage(config)
    folder = OutputFolder.begin(out, stage.name, identity(config), stage.inputs(), stage.models())
    success = run_here(stage, folder)
    write_trec_beside(out, "bm25")
    return success


QUERIES = {"q2": "wing flutter", "nothing": "quark", "q1": "heat", "empty": "?"}


def test_the_stage_writes_ranked_rows_and_the_same_run_beside_them(tmp_path):
    success = retrieve(beir(tmp_path / "beir", QUERIES, []), tmp_path / "run", shard_queries=2, top_k=2)
    assert success["counts"] == {"inputs": 4, "rows": 3, "errors": 0, "nothing": 2}
    rows = pq.read_table(tmp_path / "run").to_pylist()
    assert [(r["query_id"], r["doc_id"], r["rank"], r["error"]) for r in rows] == [
        ("q2", "2", 1, None), ("q2", "1", 2, None), ("q1", "3", 1, None)]
    expected = bm25_run(WINGS, QUERIES, top_k=2)
    assert read_run(tmp_path / "run") == {query_id: found for query_id, found in expected.items() if found}
    assert read_trec(tmp_path / "run" / "_run.trec") == read_run(tmp_path / "run")
    assert verify(tmp_path / "run") == []


def test_a_subset_is_drawn_from_the_judged_queries_by_a_stable_hash(tmp_path):
    queries = {f"q{i}": "wing" for i in range(40)}
    judged = [f"q{i}" for i in range(0, 40, 2)]
    source = beir(tmp_path / "beir", queries, [*judged, "unknown"])
    retrieve(source, tmp_path / "run", judgments=str(source), max_queries=5)
    drawn = sorted(judged, key=stable_hash)[:5]
    assert list(read_run(tmp_path / "run")) == [query_id for query_id in queries if query_id in drawn]


def test_queries_of_which_none_is_judged_are_refused(tmp_path):
    source = beir(tmp_path / "beir", QUERIES, ["other"])
    with pytest.raises(InputError, match="is judged in"):
        RetrieveStage(RetrieveConfig(documents=str(source), queries=str(source), judgments=str(source), out="-"))


def published(shared, name, fields):
    with (shared / "data" / "published_bm25_beir.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if (row["dataset"], row["index"]) == (name, fields):
                return {"nDCG@10": float(row["nDCG@10"]), "R@100": float(row["R@100"])}
    raise AssertionError(f"{name} {fields} is not in the table")


def test_the_score_of_a_document_is_the_one_that_it_is_found_with():
    documents = [{"doc_id": f"d{i}", "title": "wing" if i % 2 else "", "text": f"flow {i} shock"} for i in range(9)]
    index = Bm25(documents, RetrieveSettings())
    found = dict(index.search("q", "wing flow 3"))
    assert index.scores_of("wing flow 3", list(found)).tolist() == list(found.values())
    with pytest.raises(InputError, match="document 'x' is not in the index"):
        index.scores_of("wing", ["d1", "x"])


def measured(shared, name, fields, drop_self=False):
    folder = shared / "data" / name
    qrels, queries = read_judgments(folder / "qrels" / "test.tsv"), read_texts(folder)
    asked = {query_id: queries[query_id] for query_id in qrels}
    return evaluate(qrels, bm25_run(Documents.open(folder), asked, fields=fields, drop_self=drop_self), ["nDCG@10", "R@100"])


@pytest.mark.real
@pytest.mark.parametrize(("name", "ndcg", "recall", "recall_within"), [
    ("scifact", 0.664, 0.908, 0.002), ("nfcorpus", 0.324, 0.252, 0.003), ("cranfield", 0.383, 0.741, 0.002),
])
def test_multifield_has_the_known_figures(shared, name, ndcg, recall, recall_within):
    found = measured(shared, name, "multifield")
    assert found["nDCG@10"] == pytest.approx(ndcg, abs=0.002)
    assert found["R@100"] == pytest.approx(recall, abs=recall_within)


@pytest.mark.real
@pytest.mark.parametrize("fields", ["multifield", "flat"])
@pytest.mark.parametrize("name", ["scifact", "nfcorpus"])
def test_published_figures_are_met_within_two_tenths_of_a_point(shared, name, fields):
    assert measured(shared, name, fields) == pytest.approx(published(shared, name, fields), abs=0.002)


@pytest.mark.real
@pytest.mark.parametrize("fields", ["multifield", "flat"])
def test_arguana_is_within_what_lucenes_rounding_of_lengths_moves(shared, fields):
    """Lucene stores a document's length in one byte. On ArguAna, whose queries are long, that moves nDCG@10 by 0.2 to 0.4."""
    found = measured(shared, "arguana", fields, drop_self=True)
    assert found == pytest.approx(published(shared, "arguana", fields), abs=0.005)
