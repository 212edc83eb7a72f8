"""An experiment's file and its cells."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from readqg import cli, sample
from readqg.errors import ConfigError
from readqg.experiments.cells import VALUES, CellRun, folder_of, is_done, without_zeros
from readqg.experiments.matrix import cells_of, read_matrix
from readqg.experiments.results import by_row, contrasts, guards, summarise
from readqg.places import place_of
from readqg.shards import fingerprint

EXPERIMENTS = Path(__file__).parents[2] / "jobs" / "experiments"


def matrix(tmp_path, **changes):
    values = {
        "title": "t", "collections": {"a": {"source": "sample", "run": {"max_documents": 4}}, "b": {"run": {"rank": {"max_length": 64}}}},
        "recipes": {"base": {}, "other": {"run": {"reranker": {"w_mr": 0}, "rank": {"max_length": 32}}}}, "seeds": [0, 1],
        "run": {"rank": {"max_length": 128}, "reranker": {"epochs": 1}}, **changes,
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return read_matrix(str(path))


def test_cells_come_in_the_order_of_value_with_later_layers_winning(tmp_path):
    cells = list(cells_of(matrix(tmp_path)))
    first = ["a/base/0", "a/other/0", "b/base/0", "b/other/0"]
    assert [cell.name for cell in cells] == [*first, *(name.replace("/0", "/1") for name in first)]
    by_name = {cell.name: cell.config for cell in cells}
    assert [by_name[name].rank.max_length for name in ("a/base/0", "b/base/0", "b/other/0")] == [128, 64, 32]
    assert by_name["a/other/1"].reranker.w_mr == 0 and by_name["a/other/1"].reranker.epochs == 1
    assert (by_name["a/base/1"].generate.seed, by_name["a/base/1"].reranker.seed, by_name["a/base/1"].max_documents) == (1, 1, 4)


def test_a_collection_s_documents_of_grade_0_may_be_taken_out_of_its_rankings():
    run = {"q": {"d1": 3.0, "d2": 2.0, "d3": 1.0}, "other": {"d1": 1.0}}
    assert without_zeros(run, {"q": {"d1": 0, "d2": 1}}) == {"q": {"d2": 2.0, "d3": 1.0}, "other": {"d1": 1.0}}


def test_a_recipe_may_have_fewer_seeds(tmp_path):
    names = [cell.name for cell in cells_of(matrix(tmp_path, recipes={"base": {}, "once": {"seeds": 1}}, collections={"a": {}}))]
    assert names == ["a/base/0", "a/once/0", "a/base/1"]


def test_a_seed_varies_what_it_is_told_to(tmp_path):
    cells = list(cells_of(matrix(tmp_path, varies=["training"])))
    assert {(cell.seed, cell.config.generate.seed, cell.config.reranker.seed) for cell in cells} == {(0, 0, 0), (1, 0, 1)}


@pytest.mark.parametrize(("changes", "said"), [
    ({"recipes": {"odd": {"run": {"reranker": {"epochz": 1}}}}}, "a/odd.*\n.*reranker.epochz"),
    ({"recipes": {"odd": {"run": {"corpus": "x"}}}}, "a/odd: corpus cannot be set"),
    ({"recipes": {"../odd": {}}}, "names are file names too"),
    ({"recipes": {}}, "recipes"),
    ({"recipes": {"start": {}}}, "start: bm25 and start are rows of every table"),
    ({"contrasts": [["base", "othr"]]}, r"contrasts name 'othr': a row is a recipe, start or bm25, and may end in \+bm25"),
    ({"recipes": {"odd": {"run": {"queries": "q.jsonl", "max_documents": None}, "few_shot": {}}}, "pairs": "p",
      "collections": {"a": {}}}, "a/odd: queries are those of a file"),
    ({"recipes": {"odd": {"average": 0.5, "run": {"fusion": {"weight": "learned"}}}}}, "a/odd: fusion.weight is learned in training"),
    ({"recipes": {"odd": {"trainer": "bi_encoder", "run": {"fusion": {"weight": "learned"}}}}}, "a/odd: fusion.weight is learned"),
    ({"recipes": {"odd": {"trainer": "bi_encoder", "average": 0.5}}}, "odd: average is of the start and a tuned re-ranker"),
    ({"recipes": {"odd": {"trainer": "sentence_transformers", "mining": {"bm25_as_text": True}, "run": {"candidates": "both"}}}},
     "a/odd: bm25_as_text .* leave candidates at the default"),
    ({"collections": {"a": {"sauce": "sample"}}}, "collections.a.sauce"),
])
def test_a_fault_is_named_before_anything_is_run(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        matrix(tmp_path, **changes)


def test_a_kept_cell_stays_done_when_a_field_comes_later_until_it_is_set(tmp_path):
    out, before = place_of(tmp_path / "out"), next(cells_of(matrix(tmp_path)))
    made = json.loads(json.dumps(before.identity))
    del made["run"]["reranker"]["w_anchor"]
    folder_of(out, before).write(VALUES.empty_table(), {"identity": made})
    assert is_done(out, before)
    for run in ({"reranker": {"w_anchor": 1.0}}, {"reranker": {"epochs": 2}}):
        assert not is_done(out, next(cells_of(matrix(tmp_path, recipes={"base": {"run": run}}))))


def test_a_cell_made_in_one_folder_is_known_in_another(tmp_path, monkeypatch):
    made = []
    for name in ("here", "there"):
        for folder in ("a", "prompts", "start", "encoder"):
            (tmp_path / name / "data" / folder).mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        few_shot = {"few_shot": {"examples": 1}}
        mined = {"trainer": "sentence_transformers", "mining": {"encoder": "data/encoder"}, "run": {"prompts": "data/prompts"}}
        cells = list(cells_of(matrix(tmp_path, collections={"a": {"source": "data/a"}}, recipes={"own": few_shot, "mined": mined},
                                     seeds=[0], pairs="data/a", run={"start": "data/start"})))
        made.append(json.loads(json.dumps([cell.identity for cell in cells])))
    assert cells[0].config.start == str(tmp_path / "there" / "data" / "start")
    assert all(cell.is_what(identity) for cell, identity in zip(cells, made[0], strict=True))
    assert cells[0].is_what({**made[0][0], "source": str(tmp_path / "there" / "data" / "a")}), "as earlier versions named it"
    assert not cells[0].is_what({**made[0][0], "source": str(tmp_path / "here" / "data" / "a")})


def test_a_later_field_of_a_grid_of_prompts_or_of_mining_undoes_no_cell_either(tmp_path):
    recipes = {"own": {"few_shot": {"examples": 2}}, "mined": {"trainer": "sentence_transformers"}}
    for cell in cells_of(matrix(tmp_path, recipes=recipes, pairs=str(tmp_path), grid_documents=3, collections={"a": {}}, seeds=[0])):
        made = json.loads(json.dumps(cell.identity))
        del made["grid"][0]["temperature"], made["grid"][2]["max_length"]
        if cell.recipe == "own":
            del made["own_prompts"]["seed"]
        else:
            del made["mining"]["range_min"]
        assert cell.is_what(made)
        made["grid"][0]["seed"] += 1
        assert not cell.is_what(made)


def test_a_file_that_is_no_matrix_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_matrix(str(path))
    path.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="found list"):
        read_matrix(str(path))
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="is no YAML"):
        read_matrix(str(path))


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_experiments_that_come_along_resolve(path):
    matrix = read_matrix(str(path))
    seeds = sum(min(len(matrix.seeds), recipe.seeds or len(matrix.seeds)) for recipe in matrix.recipes.values())
    assert len(list(cells_of(matrix))) == seeds * len(matrix.collections)


def test_a_dry_run_lists_the_cells_and_remains_a_config(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["experiment", str(EXPERIMENTS / "table5.yaml"), "--out", "x", "--dry-run"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and yaml.safe_load(out)["out"] == "x"
    assert "# nfcorpus/readqg/0\n" in out and out.count("# ") == 5 * 3 * 26


def test_a_dry_run_of_a_faulty_matrix_fails(tmp_path, capsys):
    path = tmp_path / "x.yaml"
    path.write_text("title: t\ncollections: {a: {}}\nrecipes: {odd: {trainer: ours}}\n")
    with pytest.raises(SystemExit) as stop:
        cli.main(["experiment", str(path), "--out", "x", "--dry-run"])
    assert stop.value.code == 2 and "recipes.odd.trainer" in capsys.readouterr().err


def test_what_a_recipe_names_or_how_it_trains_is_another_cell(tmp_path):
    every = {"base": {}, "mined": {"trainer": "sentence_transformers"}, "searching": {"trainer": "bi_encoder"},
             "untrained": {"trainer": "bi_encoder", "bi_encoder": {"epochs": 0}}, "both": {"run": {"candidates": "both"}},
             "replay": {"run": {"reranker": {"replay": "a"}}},
             "other": {"run": {"reranker": {"replay": "b"}}}, "like": {"run": {"queries_like": "a", "generate": {"samples": 2}}},
             "own": {"generator": {}}, "from": {"generator": {"initial": "a"}}, "from-other": {"generator": {"initial": "b"}}}
    cells = [cell for cell in cells_of(matrix(tmp_path, recipes=every, seeds=[0], pairs="a")) if cell.collection == "a"]
    assert len({fingerprint(cell.identity) for cell in cells}) == len(every)
    assert len({CellRun(place_of(str(tmp_path)), cell).config.prompts for cell in cells if cell.prompts}) == 3


def test_prompts_that_judge_queries_from_elsewhere_make_another_cell(tmp_path):
    def cell(prompts, **reranker):
        saved = tmp_path / prompts
        saved.mkdir(exist_ok=True)
        facts = json.loads((Path(sample.prompts_folder()) / "prompts.json").read_text())
        (saved / "prompts.json").write_text(json.dumps({**facts, "base_model": f"backbone of {prompts}"}))
        run = {"queries": "q.jsonl", "prompts": str(saved), "reranker": {"w_mr": 0, **reranker}}
        return next(cells_of(matrix(tmp_path, collections={"a": {"source": "sample"}}, recipes={"own": {"run": run}})))

    judged, other = cell("a", ratio_min=0.0), cell("b", ratio_min=0.0)
    assert judged.identity != other.identity and cell("a").identity == cell("b").identity
    assert "backbone of a" in judged.models and not [name for name in cell("a").models if "backbone" in name]
    (a,), (b,) = (CellRun(place_of(str(tmp_path)), one).steps.passes() for one in (judged, other))
    assert a.made_of != b.made_of


@pytest.mark.parametrize("recipe", [{"generator": {}}, {"few_shot": {}}])
def test_other_pairs_or_another_judge_make_another_cell(tmp_path, recipe):
    grid = {"pairs": "a", "grid_documents": 4}
    changes = [{"pairs": "a"}, {"pairs": "b"}, grid, {**grid, "quality": {"judge": "b"}}, {**grid, "quality": {"encoder": "b"}}]
    cells = [next(cells_of(matrix(tmp_path, recipes={"own": recipe}, **change))) for change in changes]
    assert len({fingerprint(cell.identity) for cell in cells}) == len(changes)
    assert len({CellRun(place_of(str(tmp_path)), cell).config.prompts for cell in cells}) == 2


def test_seconds_of_a_place_count_once_and_those_of_the_grid_as_quality(tmp_path):
    run = CellRun(place_of(str(tmp_path)), next(cells_of(matrix(tmp_path))))
    prompts, queries, grid = (place_of(str(tmp_path / name)) for name in ("prompts", "queries", "grid"))
    for stage, made, seconds in (("prompts", prompts, 8.0), ("generate", queries, 4.0), ("generate", grid, 2.0)):
        made.mkdir()
        (made / "_SUCCESS").write_text("")
        (made.parent / f"_seconds-{made.name}.json").write_text(json.dumps({"seconds": {stage: seconds}, "done": [stage]}))
    for stage, made in (("prompts", prompts), ("generate", queries), ("prompts", prompts), ("quality", grid)):
        with run._timed(stage, made):
            pass
    assert run._seconds() == {"prompts": 8.0, "generate": 4.0, "quality": 2.0}


def test_each_difference_has_the_row_that_it_is_taken_from(tmp_path):
    asked = matrix(tmp_path, recipes={"base": {}, "other": {}, "maxp": {}}, collections={"a": {}}, seeds=[0])
    start = {"base": 0.5, "other": 0.5, "maxp": 0.625}
    rows = [{"collection": "a", "recipe": recipe, "seed": 0, "system": system, "query_id": "q", "ndcg": value, "recall": 1.0}
            for recipe in start for system, value in (("bm25", 0.25), ("start", start[recipe]), ("recipe", 0.75))]
    lines = {line["name"]: line for line in summarise(asked, by_row(pa.Table.from_pylist(rows)), {})["lines"]}
    assert list(lines) == ["BM25", "start", "start of maxp", "base", "other", "maxp"]
    for recipe, name in (("base", "start"), ("other", "start"), ("maxp", "start of maxp")):
        difference = lines[recipe]["mean"] - lines[name]["mean"]
        assert 100 * lines[recipe]["difference"].mean == pytest.approx(difference)


def test_one_that_trains_nothing_is_compared_with_the_plain_start(tmp_path):
    recipes = {"base": {}, "maxp": {"train": False, "run": {"rank": {"passages": "max"}}}}
    asked = matrix(tmp_path, recipes=recipes, collections={"a": {}}, seeds=[0])
    rows = [{"collection": "a", "recipe": recipe, "seed": 0, "system": system, "query_id": "q", "ndcg": value, "recall": 1.0}
            for recipe, start in (("base", 0.5), ("maxp", 0.625)) for system, value in (("start", start), ("recipe", start))]
    lines = {line["name"]: line for line in summarise(asked, by_row(pa.Table.from_pylist(rows)), {})["lines"]}
    assert lines["maxp"]["difference"].mean == pytest.approx(0.125)


def test_rows_are_compared_with_rows(tmp_path):
    pairs = [["one", "other"], ["start+bm25", "start"], ["start+bm25", "bm25"], ["one+bm25", "start+bm25"], ["one", "absent"]]
    asked = matrix(tmp_path, recipes={"absent": {}, "changed": {"run": {"rank": {"passages": "max"}}}, "one": {}, "other": {}},
                   collections={"a": {}, "b": {}}, seeds=[0, 1], contrasts=pairs)
    figures = {"bm25": 0.25, "start": 0.5, "start-fused": 0.625, "recipe": 0.75, "recipe-fused": 0.875}
    rows = [{"collection": c, "recipe": recipe, "seed": seed, "system": system, "query_id": f"q{i}", "recall": 1.0,
             "ndcg": value - (recipe == "other") * (0.25 if seed else 0.125) + (recipe == "changed") * 0.1}
            for c in "ab" for recipe in ("changed", "one", "other") for seed in ((0,) if recipe == "other" else (0, 1))
            for system, value in figures.items() for i in range(8)]
    found = contrasts(asked, by_row(pa.Table.from_pylist(rows)))
    assert [(f["name"], f["difference"].mean) for f in found] == [
        ("one − other", pytest.approx(0.125)),  # of the seed that both have
        ("start+bm25 − start", pytest.approx(0.125)), ("start+bm25 − bm25", pytest.approx(0.375)),
        ("one+bm25 − start+bm25", pytest.approx(0.25))]
    assert all(f["holm"] == pytest.approx(min(1.0, 5 * f["difference"].p), rel=0.3) for f in found), "five were asked for"


def test_no_p_grows_with_what_is_done_later(tmp_path):
    asked = matrix(tmp_path, recipes={name: {} for name in "abcd"}, collections={"a": {}}, seeds=[0])
    rows = [{"collection": "a", "recipe": "a", "seed": 0, "system": system, "query_id": f"q{i}", "ndcg": value + i / 100, "recall": 1.0}
            for system, value in (("start", 0.25), ("recipe", 0.5)) for i in range(12)]
    line = summarise(asked, by_row(pa.Table.from_pylist(rows)), {})["lines"][-1]
    assert line["holm"] == pytest.approx(4 * line["difference"].p)


def test_a_weight_of_ones_own_is_compared_with_the_start_that_has_the_usual_one(tmp_path):
    recipes = {"base": {}, "own": {"run": {"fusion": {"weight": 2.0}}}}
    asked = matrix(tmp_path, recipes=recipes, collections={"a": {}}, seeds=[0])
    fused = {"base": (0.75, 0.75), "own": (0.25, 0.5)}  # start, recipe
    rows = [{"collection": "a", "recipe": recipe, "seed": 0, "system": system, "query_id": "q", "ndcg": value, "recall": 1.0}
            for recipe, values in fused.items()
            for system, value in zip(("recipe", "start-fused", "recipe-fused"), (0.5, *values), strict=True)]
    lines = {line["name"]: line for line in summarise(asked, by_row(pa.Table.from_pylist(rows)), {}, "-fused")["lines"]}
    assert lines["own"]["difference"].mean == pytest.approx(-0.25)
    assert lines["base"]["difference"].mean == 0


def test_what_the_guard_said_is_set_against_judged_queries_each_model_once(tmp_path):
    asked = matrix(tmp_path, collections={"a": {}}, seeds=[0], pairs="p", recipes={
        **{name: {} for name in ("one", "again", "two", "three", "bi", "kept")}, "half": {"average": 0.5}, "few": {"few_shot": {}}})

    def cell(use, difference, tuned, model=None):
        verdict = {"use": use, "difference": difference}
        return {"guard": verdict, "outside": {"plain": verdict, "fused": verdict}, "tuned": tuned, "model": model or tuned}

    facts = {
        "a/half/0": cell("tuned", 0.3, "m3", "averaged"), "a/one/0": cell("tuned", 0.2, "m1"), "a/again/0": cell("tuned", 0.2, "m1"),
        "a/two/0": cell("start", -0.1, "m2"), "a/three/0": cell("start", 0.1, "m3"),
        "a/few/0": {**cell("start", -0.2, "m4"), "outside": None},
        "a/bi/0": {"guard": None, "outside": None, "model": "m5", "tuned": "m5"}, "a/kept/0": {"guard": {"use": "start", "difference": 1}}}
    gains = {"half": 0.375, "one": 0.25, "again": 0.25, "two": -0.125, "three": 0.125, "few": -0.25, "bi": 0.5, "kept": 0.5}
    rows = [{"collection": "a", "recipe": recipe, "seed": 0, "system": system + fused, "query_id": "q", "ndcg": 0.5 + own, "recall": 1.0}
            for recipe, gain in gains.items() for fused in ("", "-fused") for system, own in (("start", 0.0), ("recipe", gain))]
    found = guards(asked, facts, by_row(pa.Table.from_pylist(rows)))
    counts = [[row[name] for name in ("models", "tuned_better", "tuned_not", "start_better", "start_not")] for row in found]
    assert counts == [[4, 1, 0, 1, 2], [4, 2, 0, 1, 1], [4, 2, 0, 1, 1]], "averaged weights outside alone"
    assert all(row["tau"] == pytest.approx(1.0) for row in found)
