"""The guard's own queries and their candidates."""

from readqg.experiments.guarding import with_sources
from readqg.places import place_of
from readqg.runs import read_run, write_trec


def test_a_query_s_own_document_is_a_candidate_the_last_one_where_it_was_not_found(tmp_path):
    folder = place_of(str(tmp_path))
    write_trec(folder / "bm25.trec", {"q0": {"d1": 3.0, "d2": 1.5}, "q1": {"d1": 2.0, "d3": 1.0}})
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td2\t1\nq1\td9\t1\nq2\td7\t1\n")
    found = read_run(with_sources(folder / "bm25.trec", folder / "asked", folder / "all.trec"))
    assert found == {"q0": {"d1": 3.0, "d2": 1.5}, "q1": {"d1": 2.0, "d3": 1.0, "d9": 1.0}, "q2": {"d7": 0.0}}
