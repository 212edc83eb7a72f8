"""Documents that stand for a corpus."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readqg import config as c
from readqg import local
from readqg.covering import cover, spread
from readqg.errors import ConfigError
from readqg.shards import open_input
from tests.builders import tiny_bi_encoder
from tests.reranker.corpus import write_documents


def blobs(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    vectors = np.concatenate([rng.normal(0, 0.05, (size, 4)) + 10 * np.eye(4)[i % 4] for i, size in enumerate(sizes)])
    return vectors.astype(np.float32), [f"d{i}" for i in range(len(vectors))], np.repeat(np.arange(len(sizes)), sizes)


def test_a_small_topic_gets_as_many_documents_as_a_large_one():
    vectors, ids, topics = blobs(200, 6, 4)
    for seed in range(3):
        assert sorted(topics[spread(vectors, ids, 3, 1024, seed)]) == [0, 1, 2]
        assert np.bincount(topics[spread(vectors, ids, 9, 3, seed)]).tolist() == [3, 3, 3]


def test_the_first_of_a_cluster_is_nearest_to_its_centre():
    vectors = np.array([[0.0], [0.4], [0.5], [0.7], [9.0], [9.1], [9.4]], dtype=np.float32)
    chosen = spread(vectors, list("abcdefg"), 2, 2, 0)
    assert chosen.tolist() in ([1, 5], [2, 5]), "about 0.4 and 9.17"


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 8), st.integers(0, 3))
def test_as_many_as_asked_for_each_once_and_the_same_again(size, number, clusters, seed):
    vectors, ids, _ = blobs(size, seed=seed)
    chosen = spread(vectors, ids, number, clusters, seed)
    assert len(chosen) == min(number, size) and np.array_equal(chosen, np.unique(chosen))
    assert np.array_equal(chosen, spread(vectors, ids, number, clusters, seed))


def test_equal_documents_are_no_trouble():
    assert len(spread(np.ones((30, 4), np.float32), [str(i) for i in range(30)], 10, 8, 0)) == 10


def test_the_chosen_documents_are_a_corpus_of_their_own(tmp_path):
    documents = {f"d{i}": f"{'wing flow' if i % 2 else 'heat shock'} {i}" for i in range(20)} | {"empty": ""}
    settings = {"documents": str(write_documents(tmp_path / "documents", documents)), "max_documents": 5, "out": str(tmp_path / "out"),
                "encoder": str(tiny_bi_encoder(tmp_path / "encoder")), "shard_documents": 8,
                "compute": {"device": "cpu", "precision": "fp32", "threads": 1}}
    config = c.make(c.CoverageConfig, settings)
    success = cover(config, local.run_here)
    found = open_input(config.out, ("doc_id", "title", "text")).read().to_pylist()
    assert [documents[row["doc_id"]] for row in found] == [row["text"] for row in found] and len(found) == 5
    assert [row["doc_id"] for row in found] == sorted((r["doc_id"] for r in found), key=list(documents).index)
    assert cover(config, local.run_here) == success
    again = cover(config.model_copy(update={"out": str(tmp_path / "again")}), local.run_here)
    assert again["fingerprint"] == success["fingerprint"]


def test_coverage_needs_a_number():
    with pytest.raises(ConfigError, match="coverage needs max_documents"):
        c.make(c.RunConfig, {"sampling": "coverage"})
