"""Which documents a step takes, which of their queries, and how they are padded."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from readqg.config import GeneratorSettings
from readqg.errors import InputError
from readqg.generator.backbone import Backbone
from readqg.generator.collation import COLUMNS, TrainingPairs, collate, draw
from readqg.generator.model import Generator
from readqg.generator.prompts import SoftPrompt
from readqg.shards import open_input
from tests.builders import tiny_t5, write_folder
from tests.generator.pairs import PAIRS, pair_row, query, write_pairs


def settings(**changes: Any) -> GeneratorSettings:
    return GeneratorSettings(**{"n_relevance": 1, "n_instruction": 1, "m": 4, **changes})


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    backbone = Backbone.load(tiny_t5(tmp_path_factory.mktemp("t5")))
    return Generator(backbone, SoftPrompt.initial(backbone, settings()))


def rng(key: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key))


def side(*relevances: float) -> list[dict[str, Any]]:
    return [query(f"q{r}", f"text {r}", r * 10, r) for r in relevances]


def relevances(drawn: list[dict[str, Any]]) -> list[float]:
    return [q["relevance"] for q in drawn]


def test_paper_takes_all_and_a_short_side_repeats() -> None:
    assert relevances(draw(side(0.6, 0.9, 0.7, 0.8), settings(), 0, rng())) == [0.9, 0.8, 0.7, 0.6]
    assert relevances(draw(side(0.6, 0.9), settings(), 0, rng())) == [0.9, 0.9, 0.6, 0.6]
    assert relevances(draw(side(0.7, 0.8, 0.9), settings(), 0, rng())) == [0.9, 0.9, 0.8, 0.7]


def test_of_a_longer_side_paper_takes_both_ends_and_even_steps_between() -> None:
    assert relevances(draw(side(*(i / 10 for i in range(10))), settings(), 0, rng())) == [0.9, 0.6, 0.3, 0.0]
    assert relevances(draw(side(0.5, 0.7), settings(m=1), 0, rng())) == [0.7]
    assert relevances(draw(side(0.1, 0.2), settings(m=1), -1, rng())) == [0.1]


@hypothesis_settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32), st.sampled_from([0, -1]))
def test_authors_take_the_extreme_one_and_others_at_random(stored: int, m: int, key: int, extreme: int) -> None:
    queries = side(*(i / 20 for i in range(stored)))
    drawn = relevances(draw(queries, settings(profile="authors", m=m), extreme, rng(key)))
    assert len(drawn) == m and drawn == sorted(drawn, reverse=True) and set(drawn) <= set(relevances(queries))
    assert (max if extreme == 0 else min)(relevances(queries)) in drawn
    assert len(set(drawn)) == min(m, stored)


def test_authors_draw_other_queries_with_another_key() -> None:
    drawn = {tuple(relevances(draw(side(*(i / 20 for i in range(10))), settings(profile="authors"), 0, rng(k)))) for k in range(20)}
    assert len(drawn) > 5


def test_sequences_come_by_document_positives_first_each_paired_with_its_contradiction(generator: Generator) -> None:
    batch = collate([pair_row(0, 2, 2), pair_row(1, 2, 2)], generator, settings(m=2), "")
    assert batch.is_positive.tolist() == [True, True, False, False] * 2
    assert batch.pair.tolist() == [2, 3, 0, 1, 6, 7, 4, 5]
    own = batch.relevance[batch.encoding].tolist()
    assert own == pytest.approx([1.0, 0.9, 0.1, 0.0] * 2)


def test_a_document_at_one_relevance_is_encoded_once(generator: Generator) -> None:
    batch = collate([pair_row(0, 1, 4), pair_row(1, 4, 4)], generator, settings(), "")
    assert batch.encoding.tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert batch.document_ids.shape[0] == len(batch.relevance) == 13


def test_one_relevance_of_two_documents_is_two_encodings(generator: Generator) -> None:
    batch = collate([pair_row(0, 1, 1), pair_row(1, 1, 1)], generator, settings(m=1), "")
    assert batch.encoding.tolist() == [0, 1, 2, 3] and batch.relevance.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_documents_and_queries_are_cut_and_padded(generator: Generator) -> None:
    batch = collate([pair_row(0), pair_row(2)], generator, settings(m=2, document_tokens=9, query_tokens=4), "")
    whole = [generator.document_ids(pair_row(i)["text"], 999) for i in (0, 2)]
    assert len(whole[0]) < 9 < len(whole[1])
    assert batch.document_ids.shape[1] == 16  # 9, padded to a multiple of 8
    assert batch.document_ids[0, : len(whole[0])].tolist() == whole[0] and batch.document_mask[0].sum() == len(whole[0])
    assert batch.document_ids[-1, :9].tolist() == whole[1][:9] and batch.document_mask[-1].sum() == 9
    end = generator.backbone.end_id
    for labels in batch.labels.tolist():
        real = [label for label in labels if label != -100]
        assert len(real) == 4 and real[-1] == end and end not in real[:-1]


def test_short_queries_are_padded_with_the_ignored_label(generator: Generator) -> None:
    row = pair_row(0, 1, 1)
    row["negatives"][0]["query"] = "what"
    labels = collate([row], generator, settings(m=1), "").labels
    assert labels[0].min() >= 0 and labels[1].tolist()[:2] == generator.target_ids("what", 9)
    assert set(labels[1].tolist()[2:]) == {-100}


@pytest.mark.parametrize("lacking", ["positives", "negatives"])
def test_a_document_without_one_side_is_named(generator: Generator, lacking: str) -> None:
    with pytest.raises(InputError, match=r"'d3' of the pairs has .* both are needed"):
        collate([{**pair_row(3), lacking: []}], generator, settings(), "")


def open_pairs(path: Path, held_out: int = 2, seed: int = 0) -> TrainingPairs:
    return TrainingPairs(open_input(path, COLUMNS), held_out, seed)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven documents in three parts, row groups of two."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", [pair_row(i) for i in range(11)], parts=3, rows_per_group=2)


def test_rows_are_read_by_number_across_parts_and_row_groups(pairs: Path) -> None:
    opened = open_pairs(pairs)
    order = [10, 0, 3, 4, 7, 7, 2]
    assert opened.read(order) == [open_input(pairs).read().to_pylist()[row] for row in order]


def test_an_epoch_has_every_training_document_once_and_no_held_out_one(pairs: Path) -> None:
    opened = open_pairs(pairs)
    trained = sorted(set(range(11)) - set(opened.held_out))
    assert len(trained) == 9
    for epoch in range(3):
        rows = [row for step in range(epoch * 3, epoch * 3 + 3) for row in opened.rows_of_step(step, 3)]
        assert sorted(rows) == trained


def test_a_step_may_reach_over_the_end_of_an_epoch(pairs: Path) -> None:
    opened = open_pairs(pairs)
    rows = [row for step in range(9) for row in opened.rows_of_step(step, 4)]
    assert all(sorted(rows[i : i + 9]) == sorted(set(range(11)) - set(opened.held_out)) for i in range(0, 36, 9))


def test_a_step_is_a_function_of_seed_and_number_alone(pairs: Path) -> None:
    forwards = [open_pairs(pairs).rows_of_step(step, 2) for step in range(12)]
    opened = pickle.loads(pickle.dumps(open_pairs(pairs)))
    assert [opened.rows_of_step(step, 2) for step in reversed(range(12))] == forwards[::-1]
    assert [open_pairs(pairs, seed=1).rows_of_step(step, 2) for step in range(12)] != forwards
    assert len({tuple(forwards[0] + forwards[1]), tuple(forwards[4] + forwards[5])}) == 2


def test_the_same_documents_are_held_out_whatever_the_seed(pairs: Path) -> None:
    assert open_pairs(pairs, seed=0).held_out == open_pairs(pairs, seed=5).held_out
    assert set(open_pairs(pairs, held_out=1).held_out) < set(open_pairs(pairs, held_out=3).held_out)
    assert open_pairs(pairs, held_out=0).held_out == []


def test_holding_out_everything_is_refused(pairs: Path) -> None:
    with pytest.raises(InputError, match="none is left to train on"):
        open_pairs(pairs, held_out=11)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path, pairs: Path) -> None:
    with pytest.raises(InputError, match="no column positives"):
        rows = [{"doc_id": "d", "text": "t"}]
        open_input(write_folder(tmp_path / "documents", rows, PAIRS.remove(3).remove(2)), COLUMNS)
