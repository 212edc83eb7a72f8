import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readqg import random_rows
from readqg.errors import InputError
from readqg.reranker import sampling
from readqg.reranker.batches import Batches
from readqg.reranker.examples import Triple
from readqg.reranker.sampling import Filters, read_examples
from readqg.shards import open_input
from tests.reranker.corpus import both_queries, query_row, write_queries


def _read(path, rows, negative="generated"):
    return read_examples(open_input(write_queries(path / "queries", rows)), negative)


def _examples(number, pairs=1):
    rows = [query_row(f"d{i}", r, f"d{i} {kind} {p}", p)
            for i in range(number) for p in range(pairs) for r, kind in ((1.0, "positive"), (0.0, "negative"))]
    return _read(Path(tempfile.mkdtemp()), rows)[0]


def _ids(examples):
    return [doc_id for _, doc_id in sorted(examples.doc_ids())]


def _triples(examples, epoch=0):
    return {t.doc_id: t for t in (examples.triple(i, epoch) for i in range(len(examples)))}


def test_rows_with_an_error_or_an_empty_query_are_left_out_and_counted(tmp_path):
    rows = [
        *both_queries("d1"),
        query_row("d2", 1.0, "q"), query_row("d2", 0.0, None, error="too long"),
        query_row("d3", 1.0, "  "), query_row("d3", 0.0, "n"),
        query_row("d4", 1.0, "q4"), query_row("d4", 0.5, "half"), query_row("d4", 0.0, "n4"),
    ]
    examples, counts = _read(tmp_path, rows)
    assert set(_ids(examples)) == {"d1", "d4"}
    assert _triples(examples)["d4"] == Triple("d4", "q4", "n4")
    assert counts == {
        "rows": 9, "rows_with_error": 1, "rows_with_empty_query": 1, "rows_of_other_relevance": 1,
        "positives_not_found": 0, "positives_of_low_ratio": 0, "positives_of_low_score": 0,
        "negatives_found": 0, "negatives_not_verified": 0,
        "negatives_used_as_positives": 0, "documents": 4,
        "documents_without_positive": 1, "documents_without_negative": 1, "documents_usable": 2, "identical_pairs": 0,
        "repeated_positives": 0,
    }


def test_positives_alone_are_enough_without_eq_6(tmp_path):
    examples, counts = _read(tmp_path, [query_row("d1", 1.0, "q1"), query_row("d2", 0.0, "n2")], negative=None)
    assert [examples.triple(row, 0) for row in range(len(examples))] == [Triple("d1", "q1", None)]
    assert (counts["documents_without_positive"], counts["documents_without_negative"]) == (1, 0)


def test_the_same_query_as_positive_and_negative_loses_its_negative(tmp_path):
    rows = [query_row("d1", 1.0, "What is  lift?"), query_row("d1", 0.0, "what is lift? "), *both_queries("d2")]
    examples, counts = _read(tmp_path, rows)
    assert _triples(examples)["d1"] == Triple("d1", "What is  lift?", None)
    assert _triples(examples)["d2"].negative is not None
    assert counts["identical_pairs"] == 1


def test_positives_that_two_documents_share_are_counted(tmp_path):
    rows = [query_row("d1", 1.0, "what is lift"), query_row("d2", 1.0, "What is lift"), query_row("d3", 1.0, "else")]
    assert _read(tmp_path, rows, negative=None)[1]["repeated_positives"] == 1


def test_a_bad_sample_does_not_cost_its_document(tmp_path):
    rows = [
        query_row("d1", 1.0, None, 0, "failed"), query_row("d1", 1.0, "second", 1),
        query_row("d1", 0.0, "negative", 0), query_row("d1", 0.0, "", 1),
    ]
    assert _read(tmp_path, rows)[0].triple(0, 0) == Triple("d1", "second", "negative")


@settings(deadline=None, max_examples=10)
@given(st.permutations([row for i in range(5) for sample in range(2) for row in both_queries(f"d{i}", sample)]))
def test_the_order_of_rows_changes_nothing(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    expected, _ = _read(folder / "sorted", sorted(rows, key=lambda r: (r["doc_id"], r["relevance"], r["sample"])))
    found, _ = _read(folder, rows)
    assert _ids(found) == _ids(expected)
    assert all(_triples(found, epoch) == _triples(expected, epoch) for epoch in range(2))


def test_the_order_hangs_on_the_ids_alone_and_on_no_version_of_a_library():
    examples = _examples(8)
    assert [examples.triple(i, 0).doc_id for i in range(8)] == ["d5", "d4", "d6", "d2", "d1", "d0", "d7", "d3"]


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.integers(2, 12), st.integers(0, 3))
def test_every_epoch_sees_every_document_and_no_batch_one_twice(number, batch, seed):
    batches = Batches(_examples(number), batch, seed)
    steps = [[t.doc_id for t in batches.triples(step)] for step in range(batches.per_epoch)]
    assert all(len(set(ids)) == min(batch, number) for ids in steps)
    assert {doc_id for ids in steps for doc_id in ids} == set(_ids(batches.examples))
    assert len(steps) == -(-number // batch) or number < batch


def test_a_step_is_a_function_of_seed_and_step_alone():
    forwards, backwards = Batches(_examples(20), 8, seed=1), Batches(_examples(20), 8, seed=1)
    steps = range(9)
    assert [forwards.triples(s) for s in steps] == [backwards.triples(s) for s in reversed(steps)][::-1]


def test_epochs_and_seeds_differ_in_their_order():
    batches = Batches(_examples(20), 20, seed=1)
    assert batches.triples(0) != batches.triples(1)
    assert batches.triples(0) != Batches(_examples(20), 20, seed=2).triples(0)


def test_fixed_batches_keep_their_queries_too():
    batches = Batches(_examples(10, pairs=2), 4, seed=0, fixed=True)
    epochs = [{batches.place(s): batches.triples(s) for s in range(e * batches.per_epoch, (e + 1) * batches.per_epoch)} for e in range(3)]
    assert epochs[0] == epochs[1] == epochs[2]


def test_each_epoch_takes_the_next_pair_of_a_document():
    batches = Batches(_examples(4, pairs=2), 4, seed=0)
    taken = [{t.positive.split()[-1] for t in batches.triples(epoch)} for epoch in range(3)]
    assert taken == [{"0"}, {"1"}, {"0"}]


@settings(deadline=None, max_examples=40)
@given(st.integers(3, 60), st.floats(0.01, 0.99), st.integers(1, 20))
def test_held_out_documents_are_not_trained_on(number, share, most):
    trained, held_out = _examples(number).split(share, most)
    assert not set(_ids(trained)) & set(_ids(held_out))
    assert len(trained) + len(held_out) == number
    assert len(trained) >= 2
    assert 1 <= len(held_out) <= max(1, min(most, round(share * number)))


def test_too_few_documents_are_refused():
    with pytest.raises(InputError, match="2 documents have usable queries; training needs 3"):
        _examples(2).split(0.1, 100)


def test_a_placebo_of_the_same_document_takes_its_last_positive_which_is_then_none(tmp_path):
    rows = [query_row("d1", 1.0, f"q{i}", i) for i in range(3)] + [*both_queries("d2")]
    examples, counts = _read(tmp_path, rows, negative="last_positive")
    assert [examples.triple(0, epoch) for epoch in range(3)] == [
        Triple("d1", "q0", "q2"), Triple("d1", "q1", "q2"), Triple("d1", "q0", "q2")]
    assert (len(examples), counts["documents_without_negative"]) == (1, 1)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 30), st.integers(2, 9), st.booleans())
def test_a_placebo_of_another_document_takes_its_positive(number, batch, fixed):
    batches = Batches(_examples(number), batch, seed=0, fixed=fixed, others=True)
    plain = Batches(_examples(number), batch, seed=0, fixed=fixed)
    for step in range(2 * batches.per_epoch):
        for triple, without in zip(batches.triples(step), plain.triples(step), strict=True):
            assert (triple.doc_id, triple.positive) == (without.doc_id, without.positive)
            assert triple.negative.split()[1] == "positive"
            assert triple.negative.split()[0] != triple.doc_id


def test_another_document_with_the_same_query_gives_no_negative(tmp_path):
    examples, _ = _read(tmp_path, [query_row("d1", 1.0, "What is lift"), query_row("d2", 1.0, "what is  lift")], negative="other_document")
    assert {t.negative for t in Batches(examples, 2, seed=0, others=True).triples(0)} == {None}


def _grid(doc_id, relevances=(1.0, 0.7, 0.4, 0.0)):
    return [query_row(doc_id, r, f"{doc_id} at {r}") for r in relevances]


def _read_grid(path, rows, filters=None, graded=True, negative="generated"):
    return read_examples(open_input(write_queries(path / "queries", rows)), negative, filters, graded=graded)


def test_negatives_may_be_asked_at_another_r(tmp_path):
    examples, counts = _read_grid(tmp_path, [*_grid("d1"), *_grid("d2", (1.0, 0.0))], Filters(negative_relevance=0.4), graded=False)
    assert [examples.triple(i, 0) for i in range(len(examples))] == [Triple("d1", "d1 at 1.0", "d1 at 0.4")]
    assert (counts["documents_without_negative"], counts["rows_of_other_relevance"]) == (1, 3)


def _below(examples, triple):
    return [(examples.of(triple.doc_id, row)["relevance"], examples.of(triple.doc_id, row)["query"]) for row in triple.below]


def test_graded_documents_bring_their_queries_at_all_r_under_1(tmp_path):
    rows = [*_grid("d1"), query_row("d1", 0.2, None, error="failed"), *_grid("d2", (1.0, 0.0)), *_grid("d3", (1.0,)), *_grid("d4", (0.5,))]
    examples, _ = _read_grid(tmp_path, rows, negative=None)
    found = {doc_id: _below(examples, triple) for doc_id, triple in _triples(examples).items()}
    assert {doc_id: [query for _, query in below] for doc_id, below in found.items()} == {
        "d1": ["d1 at 0.7", "d1 at 0.4", "d1 at 0.0"], "d2": ["d2 at 0.0"], "d3": []}
    assert [r for r, _ in found["d1"]] == pytest.approx([0.7, 0.4, 0.0])


@settings(deadline=None, max_examples=20)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.3, 0.6]), unique=True, max_size=3), min_size=3, max_size=9))
def test_a_choice_of_documents_keeps_each_its_own_queries(grids):
    rows = [row for i, grid in enumerate(grids) for row in _grid(f"d{i}", (1.0, *grid))]
    examples, _ = _read_grid(Path(tempfile.mkdtemp()), rows, negative=None)
    whole = _triples(examples)
    for part in examples.split(0.4, 5):
        for triple in _triples(part).values():
            assert triple == whole[triple.doc_id]
            assert {query.split()[0] for _, query in _below(part, triple)} <= {triple.doc_id}
            assert len(triple.below) == len(grids[int(triple.doc_id[1:])])


def test_a_row_of_another_document_is_refused(tmp_path):
    examples, _ = _read(tmp_path, [*both_queries("d1"), *both_queries("d2")])
    with pytest.raises(InputError, match="row 2 is of 'd2', not of 'd1': the folder has changed"):
        examples.of("d1", 2)


@pytest.mark.parametrize("negative", ["generated", "last_positive", None])
@settings(deadline=None, max_examples=20)
@given(rows=st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([1.0, 0.4, 0.0]), st.integers(0, 1), st.sampled_from(["a", "A ", "b", "", None])),
    min_size=1, max_size=30, unique_by=lambda row: row[:3]))
def test_rows_read_a_few_at_a_time_are_those_read_at_once(negative, rows):
    rows = [query_row(f"d{i}", r, query, sample) for i, r, sample, query in rows]
    read = [_read_grid(Path(tempfile.mkdtemp()), rows, Filters(negative_relevance=0.4), negative=negative)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_rows, "_ROWS_AT_A_TIME", 3)
        patch.setattr(sampling, "_ROWS_PAIRED_AT_A_TIME", 4)
        read.append(_read_grid(Path(tempfile.mkdtemp()), rows, Filters(negative_relevance=0.4), negative=negative))
    (at_once, counts), (in_parts, counts_of_parts) = read
    assert counts == counts_of_parts
    assert [at_once.triple(i, 0) for i in range(len(at_once))] == [in_parts.triple(i, 0) for i in range(len(in_parts))]
