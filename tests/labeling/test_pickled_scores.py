"""The public pickle of scores is read, and nothing in a pickle can run, whatever it holds."""

import collections
import gzip
import io
import os
import pickle
import struct
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readqg.errors import InputError
from readqg.labeling.pickled import pickle_to_parquet, read_pickled_scores
from tests.labeling.collection import pairs_config, run_pairs

LIMIT = 1 << 20


def read(content, limit=LIMIT):
    return list(read_pickled_scores(io.BytesIO(content), limit))


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


ids = st.integers(-(10**20), 10**20) | st.text(max_size=300)
score_sets = st.dictionaries(ids, st.dictionaries(ids, st.floats(allow_nan=False) | st.integers(-70000, 70000)))


@settings(deadline=None)
@given(score_sets, st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_what_was_pickled_comes_out_whatever_the_protocol(scores, protocol):
    assert dict(read(pickle.dumps(scores, protocol=protocol))) == scores


def test_more_scores_than_a_pickles_batches_come_out(tmp_path):
    scores = {q: {d: d / 7 - q for d in range(q, q + 1100)} for q in range(1100, 1103)} | {q: {1: 0.5} for q in range(1099)}
    assert dict(read(pickle.dumps(scores))) == scores


def test_an_id_that_recurs_as_the_same_string_comes_out_each_time():
    shared = "passage"
    assert read(pickle.dumps({"a": {shared: 1.0}, "b": {shared: 2.0}})) == [("a", {"passage": 1.0}), ("b", {"passage": 2.0})]


def test_a_hostile_pickle_is_refused_and_does_nothing(tmp_path):
    for hostile in (Hostile(tmp_path / "x"), {"q": Hostile(tmp_path / "x")}, {"q": {"d": Hostile(tmp_path / "x")}},
                    {Hostile(tmp_path / "x"): {}}):
        content = pickle.dumps(hostile)
        with pytest.raises(InputError, match="the instruction STACK_GLOBAL, which can run code"):
            read(content)
        assert not (tmp_path / "x").exists()
    pickle.loads(content)
    assert (tmp_path / "x").exists(), "the pickle would have run"


@pytest.mark.parametrize(("content", "message"), [
    (b"cos\nsystem\n(S'true'\ntR.", "something to call, or of the old text form"),
    (b"(S'true'\nios\nsystem\n.", "something to call, or of the old text form"),
    (b"\x80\x02}\x82\x01.", "the instruction EXT1, which can run code"),
    (b"\x80\x02}Pid\n.", "something to call"),
    (pickle.dumps({}, protocol=0), "the instruction DICT|old text form"),
])
def test_every_other_way_to_run_something_is_refused(content, message):
    with pytest.raises(InputError, match=message):
        read(content)


@pytest.mark.parametrize(("value", "message"), [
    ({1: {2: True}}, "NEWTRUE"),
    ({1: {2: None}}, "NONE"),
    ({1: {2: [1.0]}}, "EMPTY_LIST"),
    ({1: {(2, 3): 1.0}}, "TUPLE2"),
    ({1: {b"d": 1.0}}, "SHORT_BINBYTES"),
    ({1: {2: {3: 1.0}}}, "a dict by a int under query 1"),
    ({1: {2: "high"}}, "a str by a int under query 1"),
    ({1: {2.5: 1.0}}, "a float by a float under query 1"),
    ({1.5: {2: 1.0}}, "a query id of type float"),
    ({1: 2.0}, "a float under query 1 instead of a dictionary"),
    (7, "something other than one dictionary"),
    (collections.Counter(a=1), "STACK_GLOBAL"),
])
def test_anything_but_ids_and_scores_is_refused_by_name(value, message):
    with pytest.raises(InputError, match=message):
        read(pickle.dumps(value))


SOUND = pickle.dumps({"q1": {"d1": 1.5, "d2": -2.0}, "q2": {3: 4}})
one_byte_changed = st.builds(lambda at, byte: SOUND[:at] + bytes([byte]) + SOUND[at + 1:], st.integers(0, len(SOUND) - 1),
                             st.integers(0, 255))


@settings(deadline=None)
@given(st.binary(max_size=200) | one_byte_changed)
def test_damaged_bytes_never_raise_anything_but_an_input_error(content):
    try:
        found = read(content)
    except InputError:
        return
    assert all(type(q) in (int, str) and type(s) is dict for q, s in found)


def test_a_cut_pickle_is_refused():
    content = pickle.dumps({i: {1: 2.0} for i in range(50)})
    for length in range(0, len(content), 7):
        with pytest.raises(InputError, match=r"Fetch or make it again|something other"):
            read(content[:length])


def test_a_pickle_that_is_too_long_is_refused():
    content = pickle.dumps({1: dict.fromkeys(range(1000), 0.25)})
    assert read(content, len(content))
    with pytest.raises(InputError, match=r"more than 5,000 bytes.*max_pickle_bytes"):
        read(content, 5000)


def test_a_length_that_no_file_has_takes_no_memory():
    with pytest.raises(InputError, match="a string of 4,294,967,295 bytes"):
        read(b"\x80\x04}X" + struct.pack("<I", 2**32 - 1) + b"short")


def test_a_place_in_the_memo_that_no_file_has_takes_no_memory():
    assert read(b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b".") == []


def test_a_gzipped_pickle_becomes_parquet_once_and_whole(tmp_path):
    scores = {q: {10 * q + d: q - d / 3 for d in range(40)} for q in range(30)}
    (tmp_path / "s.pkl.gz").write_bytes(gzip.compress(pickle.dumps(scores)))
    pickle_to_parquet(tmp_path / "s.pkl.gz", tmp_path / "out" / "s.parquet", LIMIT, 100)
    table = pq.read_table(tmp_path / "out" / "s.parquet")
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    assert {(int(q), int(d)): s for q, d, s in rows} == pytest.approx({(q, d): s for q in scores for d, s in scores[q].items()})
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["s.parquet"]


def test_a_refused_pickle_leaves_nothing_behind_and_is_named(tmp_path):
    (tmp_path / "s.pkl").write_bytes(pickle.dumps({1: {2: 3.0}, 2: Hostile(tmp_path / "x")}))
    with pytest.raises(InputError, match=r"s\.pkl: after byte .*STACK_GLOBAL.*write its scores as Parquet"):
        pickle_to_parquet(tmp_path / "s.pkl", tmp_path / "out" / "s.parquet", LIMIT, 100)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_damaged_gzip_file_is_said(tmp_path):
    (tmp_path / "s.pkl.gz").write_bytes(gzip.compress(pickle.dumps({i: {i: 1.5} for i in range(999)}))[:-200])
    with pytest.raises(InputError, match=r"s\.pkl\.gz.*damaged or cut off"):
        pickle_to_parquet(tmp_path / "s.pkl.gz", tmp_path / "s.parquet", LIMIT, 100)


def test_pairs_from_the_pickle_equal_those_from_parquet(tmp_path):
    rows = [("1", "11", 2.0), ("1", "12", -3.0), ("2", "11", -2.0), ("3", "11", 0.5), ("2", "12", 1.0)]
    texts = {"passages": {"11": "wing", "12": "flow"}, "queries": {"1": "one", "2": "two", "3": "three"}}
    _, expected = run_pairs(pairs_config(tmp_path, rows, **texts))
    scores: dict[int, dict[int, float]] = {}
    for query_id, doc_id, score in rows:
        scores.setdefault(int(query_id), {})[int(doc_id)] = score
    (tmp_path / "s.pkl.gz").write_bytes(gzip.compress(pickle.dumps(scores)))
    config = pairs_config(tmp_path, scores=str(tmp_path / "s.pkl.gz"), out=str(tmp_path / "again"), **texts)
    assert run_pairs(config)[1] == expected
    converted = list(Path(config.out).glob("_scores-*"))
    written = converted[0].stat().st_mtime_ns
    assert run_pairs(config)[1] == expected
    assert len(converted) == 1 and converted[0].stat().st_mtime_ns == written
