"""What A and B give for a query, and on which side each stands."""

import json
import shutil
from itertools import pairwise

import pytest

from readqg.comparing.rankings import Rankings
from readqg.config import Compute, RankConfig, RetrieveConfig, identity
from readqg.corpus import Documents, read_texts
from readqg.errors import ConfigError, InputError, ModelError
from readqg.local import run_here
from readqg.ranking import RankStage
from readqg.retrieval import RetrieveStage, bm25_run
from readqg.runs import ranked, read_run, write_queries_beside, write_trec
from readqg.shards import OutputFolder
from tests.comparing.collection import QUERIES, config_of, session_of, write_collection


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_collection(tmp_path_factory.mktemp("collection"))
    retrieve = RetrieveStage(RetrieveConfig(
        documents=str(folder / "documents.jsonl"), queries=str(folder / "queries.jsonl"), out=str(folder / "first")))
    run_here(retrieve, OutputFolder.begin(folder / "first", "retrieve", {}, retrieve.inputs()))
    rank = RankStage(RankConfig(
        run=str(folder / "first"), queries=str(folder / "queries.jsonl"), documents=str(folder / "documents.jsonl"),
        out=str(folder / "ranked"), model=str(folder / "a"), max_length=60, compute=Compute(precision="fp32", threads=1)))
    run_here(rank, OutputFolder.begin(folder / "ranked", "rank", identity(rank.config), rank.inputs(), rank.models()))
    return folder


def opened(folder, **changes):
    rankings = Rankings(config_of(folder, **changes))
    rankings.load()
    return rankings


def test_a_model_ranks_what_bm25_finds_as_the_stages_do(folder):
    rankings = opened(folder, b=str(folder / "first"))
    runs = read_run(folder / "ranked"), read_run(folder / "first")
    for query_id, text in QUERIES.items():
        shown = rankings.rank(query_id, text)
        assert [shown.a, shown.b] == [tuple(d for d, _ in ranked(run.get(query_id, {})))[:5] for run in runs]


def test_bm25_is_a_ranking_of_its_own_and_answers_any_query(folder):
    rankings = opened(folder, b="bm25", queries=None)
    assert rankings.typing
    found = bm25_run(Documents.open(folder / "documents.jsonl"), {"q": "heat of the layer"})["q"]
    assert rankings.rank("q", "heat of the layer").b == tuple(found)[:5]
    assert rankings.rank("q", "zzz").b == ()


def test_the_bare_word_bm25_is_bm25_even_beside_a_folder_of_that_name(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "first", tmp_path / "bm25")
    monkeypatch.chdir(tmp_path)
    config = config_of(folder, b="bm25")
    assert (config.b, Rankings(config).kinds["b"]) == ("bm25", "bm25")
    config = config_of(folder, b="./bm25")
    assert (config.b, Rankings(config).kinds["b"]) == (str(tmp_path / "bm25"), "run")


def test_a_query_of_ones_own_that_is_loaded_is_that_query(folder):
    rankings = opened(folder)
    query_id, text = next(iter(QUERIES.items()))
    assert rankings.id_of(f"  {text.replace(' ', '   ')} ") == query_id
    assert rankings.id_of("another") == rankings.id_of("another").strip() != rankings.id_of("a third")


@pytest.mark.parametrize("text", ["", "  \n ", "x" * 1001])
def test_an_empty_or_endless_query_is_refused(folder, text):
    with pytest.raises(InputError, match="1 to 1000 characters"):
        Rankings(config_of(folder)).id_of(text)


def test_sides_depend_on_the_pair_the_seed_and_the_query_alone_and_are_even(folder):
    ids = [f"typed-{number}" for number in range(400)]
    one, again, seeded, other = (Rankings(config_of(folder, **given)) for given in ({}, {}, {"seed": 1}, {"a": "bm25"}))
    lefts = [one.left_of(query_id) for query_id in ids]
    assert lefts == [again.left_of(query_id) for query_id in ids]
    for another in (seeded, other):
        assert 160 < sum(another.left_of(query_id) == left for query_id, left in zip(ids, lefts, strict=True)) < 240
    assert 160 < lefts.count("a") < 240  # 4 standard deviations of a fair coin
    assert 160 < sum(one != following for one, following in pairwise(lefts)) < 240
    third = opened(folder, a="bm25", seed=3)
    assert third.rank("q", "zzz").left == third.left_of("q")


def test_queries_come_in_an_order_of_their_own_that_a_restart_keeps(folder):
    order = list(Rankings(config_of(folder)).queries)
    assert sorted(order) == list(QUERIES) != order
    assert order == list(Rankings(config_of(folder)).queries) != list(Rankings(config_of(folder, seed=1)).queries)


def test_only_queries_that_a_run_was_asked_are_loaded(folder, tmp_path):
    (tmp_path / "run").mkdir()
    write_trec(tmp_path / "run" / "_run.trec", {"q01": {"d01": 1.0}, "strange": {"d01": 1.0}})
    rankings = Rankings(config_of(folder, b=str(tmp_path / "run" / "_run.trec")))
    assert list(rankings.queries) == ["q01"] and not rankings.typing
    with pytest.raises(InputError, match="compare two re-rankers"):
        rankings.id_of("of my own")
    write_queries_beside(tmp_path / "run", ["q01", "q02"])
    rankings = opened(folder, b=str(tmp_path / "run" / "_run.trec"))
    assert sorted(rankings.queries) == ["q01", "q02"]
    assert rankings.rank("q02", QUERIES["q02"]).b == ()


def test_what_cannot_be_compared_is_refused_beforehand(folder, tmp_path):
    with pytest.raises(ConfigError, match="the same"):
        Rankings(config_of(folder, b=str(folder / "a")))
    with pytest.raises(ConfigError, match="--queries"):
        Rankings(config_of(folder, b=str(folder / "first"), queries=None))
    write_trec(tmp_path / "other.trec", {"x": {"d01": 1.0}})
    with pytest.raises(InputError, match=r"other\.trec has no query of"):
        Rankings(config_of(folder, b=str(tmp_path / "other.trec")))
    write_trec(tmp_path / "elsewhere.trec", {"q01": {"d01": 2.0, "nowhere": 1.0}})
    with pytest.raises(InputError, match=r"elsewhere\.trec, query 'q01': .*documents\.jsonl has no document 'nowhere'"):
        Rankings(config_of(folder, b=str(tmp_path / "elsewhere.trec")))
    with pytest.raises(ModelError, match="no such model folder"):
        Rankings(config_of(folder, b=str(tmp_path / "absent")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        Rankings(config_of(folder, b=str(tmp_path / "empty")))


def test_a_host_off_this_machine_is_refused(folder):
    for host in ("0.0.0.0", "::", "example.org", ""):
        with pytest.raises(ValueError, match="ssh -L"):
            config_of(folder, host=host)


def test_an_empty_query_of_the_file_is_not_asked(folder, tmp_path):
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in {"e": " ", "q": "flow"}.items()))
    assert read_texts(tmp_path / "queries.jsonl")["e"].strip() == ""
    assert list(Rankings(config_of(folder, queries=str(tmp_path / "queries.jsonl"))).queries) == ["q"]


def test_a_query_that_was_judged_keeps_its_text(folder, tmp_path):
    changes = {"a": "bm25", "out": str(tmp_path / "out"), "queries": str(tmp_path / "queries.jsonl")}
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "flow"}\n')
    with session_of(folder, **changes) as session:
        session.show(session.rankings.rank("q", "flow"))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "heat"}\n{"_id": "p", "text": "wing"}\n')
    with pytest.raises(InputError, match=r"query 'q' is 'heat', but .*judgments\.jsonl has it as 'flow'"), session_of(folder, **changes):
        pass
    with session_of(folder, **{**changes, "queries": str(folder / "queries.jsonl")}) as session:
        assert list(session.judgments.shown) == ["q"] and len(session.upcoming(100)) == len(QUERIES)
