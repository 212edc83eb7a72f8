"""Scores to pairs through both stages: every passage has its outcome, and neither order nor sharding changes a row."""

import json
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readqg.config import identity
from readqg.errors import FolderError, InputError, RunError
from readqg.labeling import pairs as pairs_module
from readqg.labeling import partition as partition_module
from readqg.labeling.pairs import PARTITIONED, make_pairs, pairs_summary
from readqg.labeling.texts import Numbers
from readqg.local import run_here
from readqg.shards import OutputFolder, open_input, verify
from readqg.stage import ShardResult
from tests.labeling.collection import PASSAGES, QUERIES, pairs_config, run_pairs

ROWS = [("q1", "d1", 2.0), ("q2", "d1", -2.0), ("q3", "d1", 0.0), ("q1", "d2", -1.0), ("q2", "d2", 3.0)]


def test_a_row_holds_title_and_text_and_queries_with_score_and_relevance(tmp_path):
    _, rows = run_pairs(pairs_config(tmp_path, ROWS))
    first = next(row for row in rows if row["doc_id"] == "d1")
    assert first == {
        "doc_id": "d1", "text": "On wing flow", "error": None,
        "positives": [{"query_id": "q1", "query": "what is 1", "score": 2.0, "relevance": 1.0}],
        "negatives": [{"query_id": "q2", "query": "what is 2", "score": -2.0, "relevance": 0.0}],
    }
    assert sorted(row["doc_id"] for row in rows) == ["d1", "d2"]


def test_scores_of_a_passage_meet_from_every_shard(tmp_path):
    rows = [(f"q{i}", f"d{j}", i - 2.5 + j / 10) for i in range(6) for j in range(1, 6)]
    _, pairs = run_pairs(pairs_config(tmp_path, rows, shard_rows=1, m=3))
    assert [len(p["positives"]) + len(p["negatives"]) for p in pairs] == [6] * 5


def test_each_partition_is_a_row_group_of_every_file(tmp_path):
    config = pairs_config(tmp_path, [(f"q{i}", f"d{j}", i - 2.0) for i in range(5) for j in range(1, 6)])
    run_pairs(config)
    for part in open_input(f"{config.out}/{PARTITIONED}").parts:
        file = pq.ParquetFile(part)
        assert file.num_row_groups == config.partitions
        for k in range(config.partitions):
            assert set(file.read_row_group(k)["partition"].to_pylist()) <= {k}


@given(st.lists(st.text(max_size=4), max_size=30), st.lists(st.text(max_size=4), max_size=30, unique=True))
def test_an_id_has_the_number_of_its_place_and_another_none(asked, ids):
    places = {name: place for place, name in enumerate(ids)}
    assert Numbers(pl.Series(ids, dtype=pl.String)).of(pl.Series(asked, dtype=pl.String)).tolist() == [places.get(a, -1) for a in asked]


def test_ids_whose_hashes_meet_are_told_apart(monkeypatch):
    """Under the first seed all do; the next is taken."""
    whole = pl.Series.hash
    monkeypatch.setattr(pl.Series, "hash", lambda self, seed=0: whole(self, seed) if seed else whole(self, 0) * 0)
    ids = pl.Series(["a", "b", "c"])
    assert Numbers(ids).of(ids).tolist() == [0, 1, 2]


def test_an_id_that_stands_twice_is_an_error():
    with pytest.raises(InputError, match="the id 'b' stands twice"):
        Numbers(pl.Series(["a", "b", "c", "b"]))


def test_the_folder_is_finished_and_reads_as_plain_parquet(tmp_path):
    config = pairs_config(tmp_path, ROWS)
    run_pairs(config)
    assert verify(config.out) == [] == verify(f"{config.out}/{PARTITIONED}")
    assert pq.read_table(config.out).num_rows == 2


def test_every_passage_is_kept_or_counted_with_its_reason(tmp_path):
    rows = [*ROWS, ("q1", "d3", 1.0), ("q1", "d4", -4.0), ("q2", "d4", -4.0), ("q1", "d5", 4.0), ("q2", "d5", 5.0)]
    summary, _ = run_pairs(pairs_config(tmp_path, rows))
    assert (summary["passages"], summary["kept"], summary["scored_pairs"]) == (5, 2, 10)
    assert summary["dropped"] == {
        "too_few_queries": 1, "equal_scores": 1, "too_few_positives": 0, "too_few_negatives": 1, "no_text": 0}
    counts = open_input(tmp_path / "out").success["counts"]
    assert (counts["inputs"], counts["rows"], counts["nothing"], counts["errors"]) == (5, 2, 3, 0)


def test_the_summary_does_not_hang_on_what_a_kill_may_lose(tmp_path):
    config = pairs_config(tmp_path, [*ROWS, ("q1", "d4", -4.0), ("q7", "nowhere", 1.0)], max_unknown_share=0.5)
    summary, _ = run_pairs(config)
    assert (summary["unknown_passage"], summary["dropped"]["too_few_queries"]) == (1, 1)
    for folder in (Path(config.out), Path(config.out) / PARTITIONED):
        shutil.rmtree(folder / "_metrics")
    assert pairs_summary(config.out) == summary


def test_a_passage_without_text_is_dropped_and_counted(tmp_path):
    summary, rows = run_pairs(pairs_config(tmp_path, ROWS, passages={**PASSAGES, "d2": "  "}))
    assert [row["doc_id"] for row in rows] == ["d1"]
    assert summary["dropped"]["no_text"] == 1


def test_a_pair_scored_twice_keeps_its_highest_score_and_is_counted(tmp_path):
    again = [("q2", "d1", -7.0), *ROWS, ("q1", "d1", 1.0), ("q1", "d1", 1.5)]
    summary, rows = run_pairs(pairs_config(tmp_path, again, shard_rows=2))
    assert summary["duplicates"] == 3
    first = next(row for row in rows if row["doc_id"] == "d1")
    assert (first["positives"][0]["score"], first["negatives"][0]["score"]) == (2.0, -2.0)


def test_unknown_passages_and_queries_are_left_out_and_counted(tmp_path):
    rows = [*ROWS, ("q1", "ghost", 1.0), ("nobody", "d1", 9.0), ("silent", "d1", 9.0)]
    config = pairs_config(tmp_path, rows, queries={**QUERIES, "silent": ""}, max_unknown_share=0.5)
    summary, pairs = run_pairs(config)
    assert (summary["unknown_passage"], summary["unknown_query"]) == (1, 2)
    assert next(row for row in pairs if row["doc_id"] == "d1")["positives"][0]["query_id"] == "q1"


def test_too_many_unknown_end_the_run_naming_the_first(tmp_path):
    config = pairs_config(tmp_path, [*ROWS, ("q1", "ghost", 1.0)], max_unknown_share=0.1)
    with pytest.raises(RunError, match=r"1 of 6 scored pairs.*corpus\.jsonl.*first: passage 'ghost'.*--max-unknown-share"):
        make_pairs(config, run_here)
    summary, _ = run_pairs(config.model_copy(update={"max_unknown_share": 0.2}))
    assert summary["unknown_passage"] == 1


def test_scores_for_other_texts_altogether_are_refused(tmp_path):
    config = pairs_config(tmp_path, [("q1", "x1", 1.0), ("q2", "x2", -1.0)], max_unknown_share=1.0)
    with pytest.raises(InputError, match=r"scores\.parquet: 2 of 2 .*queries\.jsonl.*the first: passage 'x1'\. Are these"):
        make_pairs(config, run_here)


def test_pairs_that_label_could_not_score_are_left_out_and_counted(tmp_path):
    summary, rows = run_pairs(pairs_config(tmp_path, [*ROWS, ("q4", "d1", None), ("q5", "d3", None)]))
    assert (summary["unscored"], summary["scored_pairs"], len(rows)) == (2, 5, 2)


def test_another_rule_in_the_same_folder_is_refused(tmp_path):
    config = pairs_config(tmp_path, ROWS)
    run_pairs(config)
    with pytest.raises(FolderError, match=r"rule: the folder has 'paper', this command 'authors'"):
        make_pairs(config.model_copy(update={"rule": "authors"}), run_here)


def test_a_folder_with_another_layout_of_partitions_is_refused(tmp_path, monkeypatch):
    """As an earlier version made it."""
    config = pairs_config(tmp_path, ROWS)
    with monkeypatch.context() as earlier:
        earlier.setattr(pairs_module, "LAYOUT", {})
        earlier.setattr(partition_module, "LAYOUT", {})
        run_pairs(config)
    with pytest.raises(FolderError, match="partitioned by"):
        make_pairs(config, run_here)


def test_the_same_command_goes_on_where_it_stopped(tmp_path):
    config = pairs_config(tmp_path, ROWS)

    class Stopped(Exception):
        pass

    def stops_in_the_second_stage(stage, folder):
        if stage.name == "pairs":
            raise Stopped
        return run_here(stage, folder)

    with pytest.raises(Stopped):
        make_pairs(config, stops_in_the_second_stage)
    before = {p: p.stat().st_mtime_ns for p in Path(config.out, PARTITIONED).glob("part-*")}
    summary, rows = run_pairs(config)
    assert {p: p.stat().st_mtime_ns for p in Path(config.out, PARTITIONED).glob("part-*")} == before
    assert summary["kept"] == len(rows) == 2
    assert run_pairs(config) == (summary, rows)


def test_scores_of_the_label_stage_are_read_as_they_are(tmp_path):
    config = pairs_config(tmp_path, ROWS)
    _, expected = run_pairs(config)
    labels = OutputFolder.begin(tmp_path / "labels", "label", {})
    table = pq.read_table(config.scores)
    for index, part in enumerate((table.slice(0, 2), table.slice(2))):
        labels.commit(index, 2, ShardResult(part, part.num_rows, 0, 0))
    labels.finish(2)
    again = config.model_copy(update={"scores": str(tmp_path / "labels"), "out": str(tmp_path / "again")})
    assert run_pairs(again)[1] == expected
    assert identity(again) == identity(config)


ids = st.sampled_from(sorted(QUERIES)), st.sampled_from(sorted(PASSAGES))
score_rows = st.lists(st.tuples(*ids, st.sampled_from([-3.0, -2.0, -0.5, 0.0, 0.5, 2.0]) | st.floats(-11, 11, width=32)),
                      min_size=1, max_size=60)


@settings(max_examples=12, deadline=None)
@given(rows=score_rows, rule=st.sampled_from(["paper", "authors", "spread"]), m=st.integers(1, 3), shard_rows=st.integers(1, 70),
       random=st.randoms(use_true_random=False))
def test_neither_the_order_nor_the_sharding_of_the_scores_changes_a_row(tmp_path_factory, rows, rule, m, shard_rows, random):
    rows = [*rows, ("q0", "d1", -3.5), ("q1", "d1", 3.5)]  # so that the set reaches beyond [0, 1]
    folder = tmp_path_factory.mktemp("pairs")
    config = pairs_config(folder, rows, rule=rule, m=m, shard_rows=1000)
    summary, pairs = run_pairs(config)
    shutil.rmtree(config.out)
    again = pairs_config(folder, random.sample(rows, len(rows)), rule=rule, m=m, shard_rows=shard_rows)
    assert run_pairs(again) == (summary, pairs)
    shutil.rmtree(folder)
    listed = {(q["query_id"], row["doc_id"], q["score"]) for row in pairs for q in row["positives"] + row["negatives"]}
    assert listed <= set(rows)
    assert all(0 <= q["relevance"] <= 1 for row in pairs for q in row["positives"] + row["negatives"])
    assert json.dumps(summary)
