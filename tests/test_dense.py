"""A bi-encoder's best documents, of the whole corpus."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from readqg import config as c
from readqg import local
from readqg.dense import retrieve_dense
from readqg.evaluation.encoder import EmbeddedCorpus
from readqg.runs import ranked, read_queries_beside, read_run
from tests.builders import tiny_bi_encoder, write_folder
from tests.reranker.corpus import write_documents

DOCUMENTS = {f"d{i}": f"{('wing', 'heat', 'flow')[i % 3]} {('shock', 'layer')[i % 2]} {i}" for i in range(20)} | {"empty": ""}
QUERIES = {"d3": "wing layer 3", "q1": "heat", "q2": "the flow of shock"}


def config(folder, **more):
    from readqg.corpus.rows import SCHEMAS

    queries = [{"query_id": query_id, "text": text} for query_id, text in QUERIES.items()]
    values = {
        "documents": str(write_documents(folder / "documents", DOCUMENTS)),
        "queries": str(write_folder(folder / "queries", queries, SCHEMAS["queries"])),
        "encoder": str(tiny_bi_encoder(folder / "encoder")), "out": str(folder / "out"), "top_k": 4, "shard_queries": 2,
        "shard_documents": 8, "compute": {"device": "cpu", "precision": "fp32", "threads": 1}}
    return c.make(c.DenseConfig, values, more)


def by_hand(asked, top_k):
    body = Transformer(asked.encoder)
    model = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension(), "mean"), Normalize()], device="cpu")
    ids = [doc_id for doc_id, text in DOCUMENTS.items() if text]
    cosines = model.encode(list(QUERIES.values())) @ model.encode([DOCUMENTS[doc_id] for doc_id in ids]).T
    return {query: ranked(dict(zip(ids, row.tolist(), strict=True)))[:top_k] for query, row in zip(QUERIES, cosines, strict=True)}


def test_it_finds_what_all_cosines_say(tmp_path):
    asked = config(tmp_path)
    success = retrieve_dense(asked, local.run_here)
    found, expected = read_run(asked.out), by_hand(asked, 4)
    assert {query: [doc_id for doc_id, _ in ranked(own)] for query, own in found.items()} == {
        query: [doc_id for doc_id, _ in own] for query, own in expected.items()}
    for query, own in expected.items():
        assert [found[query][doc_id] for doc_id, _ in own] == pytest.approx([score for _, score in own], abs=1e-6)
    assert read_queries_beside(asked.out) == list(QUERIES) and retrieve_dense(asked, local.run_here) == success


def test_a_query_does_not_find_itself_where_that_is_asked(tmp_path):
    asked = config(tmp_path, drop_self=True, top_k=20)
    retrieve_dense(asked, local.run_here)
    found = read_run(asked.out)
    assert "d3" not in found["d3"] and len(found["d3"]) == 19 and len(found["q1"]) == 20, "and nobody finds what has no text"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.data(), st.integers(1, 15))
def test_the_nearest_are_the_first_of_an_order_and_those_as_near_as_the_last(cosines, data, number):
    there = np.array(data.draw(st.lists(st.booleans(), min_size=len(cosines), max_size=len(cosines))))
    corpus = object.__new__(EmbeddedCorpus)
    corpus._there, corpus._vectors = there, np.where(there, cosines, 0).astype(np.float32)[:, None]
    rows, found = corpus.best(np.ones(1, np.float32), number)
    every = sorted((value for value, known in zip(cosines, there, strict=True) if known), reverse=True)
    assert sorted(found.tolist(), reverse=True)[: len(every[:number])] == every[:number]
    assert set(rows) == {i for i, value in enumerate(cosines) if there[i] and every and value >= every[:number][-1]}
