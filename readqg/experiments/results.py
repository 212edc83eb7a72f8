"""Tables of the cells that are there, and how sure their figures are.

```
OUT/results.parquet   the rows of all cells, as in `cells.VALUES`, and of a recipe's rows what its cell cost
OUT/tables.md         the tables
OUT/tables.html       the same as a page
OUT/differences.json  the tables' differences (nDCG@10, not x 100) in full: choices are made on these
OUT/differences*.svg  each table's differences with their intervals; -fused: with BM25's score added
```
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup
from scipy import stats

import readqg
from readqg.config import Matrix
from readqg.config.experiment import FUSED
from readqg.evaluation import charts
from readqg.evaluation.quality_summary import SELF_JUDGED
from readqg.experiments.cells import folder_of
from readqg.experiments.comparing import Comparison, compare, holm
from readqg.experiments.costs import Cost
from readqg.experiments.matrix import Cell, cells_of
from readqg.places import Place
from readqg.shards import appearing, write_whole

_ARGUANA = "arguana"
_FUSED = "-fused"
ByCollection = dict[str, dict[int, dict[str, float]]]
"""collection -> seed -> query_id -> nDCG@10."""
Values = dict[tuple[str, str, str], dict[int, dict[str, float]]]
"""(recipe, system, collection) -> seed -> query_id -> nDCG@10."""
_OF_THE_START = {"start", "fusion", "rank", "retrieve", "candidates", "dense"}
"""Fields of a recipe's `run` that change what its start is."""
_QUALITY = {
    "diversity": ("diversity", "mean"), "rel_plus": ("rel+", "mean"), "rel_minus": ("rel−", "mean"), "delta": ("delta", "mean"),
    "control": ("control", "mean"), "query_plus": ("distinct, r = 1", "distinct"), "query_minus": ("distinct, r = 0", "distinct"),
    "bm25_rank_plus": ("in BM25's top 10, r = 1", "top_10"), "bm25_rank_minus": ("r = 0", "top_10"),
}
"""Field of `quality_summary` -> what it is called, and the fact of it that is shown."""
_JUDGED = ("rel_plus", "rel_minus", "delta", "control")
"""Of these, those that a model judges."""
_COSTS = (("seconds", pa.float64()), ("parameters", pa.int64()), ("flops", pa.float64()))
"""Columns of results.parquet for a `Cost`."""
_NO_COSTS: dict[str, Any] = {"seconds": None, "flops": None, "parameters": None, "trained_on": "", "eq_6": ""}
_CHART = "differences"
_TITLES = {"": "Adapted against the start", _FUSED: "With BM25's score added: adapted + fusion against start + fusion"}


def write(out: Place, matrix: Matrix, cells: Sequence[Cell]) -> dict[str, Any]:
    """Write results.parquet, tables.md and tables.html; returns their places. Nothing where there is no cell yet."""
    if not cells:
        return {}
    folders = [folder_of(out, cell) for cell in cells]
    facts = {cell.name: found for cell, folder in zip(cells, folders, strict=True) if (found := folder.facts())}
    table = pa.concat_tables(_with_costs(folder.values(), Cost.of(facts[cell.name])) for cell, folder in zip(cells, folders, strict=True))
    with appearing(out / "results.parquet") as partial:
        pq.write_table(table, partial, compression="zstd")
    values = by_row(table)
    tables = [summarise(matrix, values, facts, suffix) for suffix in _TITLES]
    against = contrasts(matrix, values)
    write_whole(out / "differences.json", json.dumps(_in_full(tables, against), indent=1) + "\n")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("readqg.experiments", "."), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=jinja2.select_autoescape(("html.j2",)))
    shown = {"matrix": matrix, "tables": tables, "contrasts": against, "guards": guards(matrix, facts, values),
             "eq_6": any(line["eq_6"] for found in tables for line in found["lines"]), "cells": len(cells), "version": readqg.__version__,
             "machines": _machines(facts), "weights": _weights(facts),
             "asked": sum(1 for _ in cells_of(matrix))}
    for name in ("tables.md", "tables.html"):
        write_whole(out / name, environment.get_template(f"{name}.j2").render(**shown))
    for found in tables:
        if found["chart"]:
            write_whole(out / found["file"], charts.standalone(found["chart"]))
    return {name.replace(".", "_"): str(out / name) for name in ("results.parquet", "tables.md", "tables.html")}


def _in_full(tables: Sequence[dict[str, Any]], against: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Row -> its difference to the start, plain and with BM25's score added, and that of the contrasts."""
    def rows(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {line["name"]: {**asdict(found), "holm": line["holm"]} for line in lines if (found := line["difference"]) is not None}

    plain, fused = (rows(found["lines"]) for found in tables)
    return {"plain": plain, "fused": fused, "contrasts": rows(against)}


def _chart(title: str, lines: Sequence[dict[str, Any]]) -> Markup | None:
    """The differences of the rows that have every collection, in points of nDCG@10."""
    rows = [(line["name"], *(100 * value for value in (found.mean, found.low, found.high)), "s1")
            for line in lines if (found := line["difference"]) is not None]
    return charts.intervals(rows, "difference in nDCG@10, points", f"{title}: differences with 95 % intervals", level=0) if rows else None


def _machines(facts: dict[str, dict[str, Any]]) -> list[tuple[str, int]]:
    """What the cells were ended on, and how many on each; what they share may have been made elsewhere before."""
    names = ("{processor}, {threads} threads, {precision}, torch {torch}".format(**found["machine"]) for found in facts.values())
    return Counter(names).most_common()


def _weights(facts: dict[str, dict[str, Any]]) -> list[str]:
    """The models that the cells loaded, each with the beginning of its fingerprint."""
    return sorted({f"{name} ({mark})" for found in facts.values() for name, mark in found["weights"].items()})


def _with_costs(values: pa.Table, cost: Cost) -> pa.Table:
    """A cell's values, and beside those of its recipe what it cost, the whole cell."""
    adapted = pc.starts_with(values["system"], "recipe")
    for (name, kind), value in zip(_COSTS, cost, strict=True):
        values = values.append_column(name, pc.if_else(adapted, pa.scalar(value, kind), pa.scalar(None, kind)))
    return values


def by_row(table: pa.Table) -> Values:
    values: Values = {}
    for row in table.select(["recipe", "system", "collection", "seed", "query_id", "ndcg"]).to_pylist():
        key = (row["recipe"], row["system"], row["collection"])
        values.setdefault(key, {}).setdefault(row["seed"], {})[row["query_id"]] = row["ndcg"]
    return values


def summarise(matrix: Matrix, values: Values, facts: dict[str, dict[str, Any]], suffix: str = "") -> dict[str, Any]:
    """One table. `suffix`: "" compares recipes with the start, "-fused" fused recipes with the fused start.

    Rows: BM25 and the start, then a row a recipe that has a cell: nDCG@10 x 100 by collection, means over the collections with and
    without ArguAna, the mean difference to the start with its 95 % interval, its p, and Holm's over all recipes that the matrix asks for
    (those that are not there yet count as showing nothing, so that no p grows with what is done later), and what it cost. Where recipes
    change what BM25 or the start is (ranking by passages), there is a row of each, named by the recipes whose differences are to it; but
    one with a weight of BM25 of its own is compared with the start that has the others' weight. A recipe that lacks a collection has no
    means: they would be of other collections than its neighbours'."""
    collections = _collections(matrix, values)
    rest = [name for name in collections if name.lower() != _ARGUANA]
    recipes = [name for name in matrix.recipes if any((name, "recipe", c) in values for c in collections)]
    compared: dict[str, Comparison] = {}
    lines = []
    for system, label in (("bm25", "BM25"), (f"start{suffix}", "start" + (" + BM25" if suffix else ""))):
        measured_by = {name: {c: values[name, system, c] for c in collections if (name, system, c) in values} for name in recipes}
        for names, by in _alike(measured_by):
            name = f"{label} of {', '.join(names)}" if names else label
            nothing: dict[str, Any] = {"note": "", "guard": "", "published": {}, **_NO_COSTS}
            lines.append({"name": name, **nothing, **_means(by, collections)})
    for name in recipes:
        own = {c: values[name, f"recipe{suffix}", c] for c in collections if (name, f"recipe{suffix}", c) in values}
        # Those whose cells are not all there yet, or that have fewer seeds, are passed over; in the end there is its own.
        starts = ({c: values.get((reference, f"start{suffix}", c), {}) for c in own} for reference in _references(matrix, name, recipes))
        start = next(start for start in starts if all(own[c].keys() <= start[c].keys() for c in own))
        start = {c: {seed: start[c][seed] for seed in own[c]} for c in own}
        if len(own) == len(collections):
            compared[name] = compare(own, start)
        lines.append({
            "name": name, "note": matrix.recipes[name].note, **_means(own, collections), **_quality(facts, name),
            **_costs(facts, name, whole=len(own) == len(collections), judged=matrix.recipes[name].average is None),
            "rest": compare({c: own[c] for c in rest}, {c: start[c] for c in rest})
            if 0 < len(rest) < len(collections) == len(own) else None,
            "published": matrix.recipes[name].published, "published_quality": matrix.recipes[name].published_quality,
            "by_collection": {c: compare({c: own[c]}, {c: start[c]}) for c in own},
        })
    unseen = [1.0] * (len(matrix.recipes) - len(compared))
    for name, p in zip(compared, holm([found.p for found in compared.values()] + unseen), strict=False):
        line = next(line for line in lines if line["name"] == name)
        line["difference"], line["holm"] = compared[name], p
    own_judge = any((found.get("quality") or {}).get("label") for found in facts.values())
    measured = [name for name in _QUALITY if any(line.get("quality", {}).get(name) is not None for line in lines)]
    return {"title": _TITLES[suffix], "collections": collections, "lines": lines,
            "chart": _chart(_TITLES[suffix], lines), "file": f"{_CHART}{suffix}.svg",
            "measured": {name: _QUALITY[name][0] + (f" ({SELF_JUDGED})" if own_judge and name in _JUDGED else "") for name in measured},
            "queries": {c: len(next(iter(v.values()))) for c in collections for (_, _, where), v in values.items() if where == c}}


def contrasts(matrix: Matrix, values: Values) -> list[dict[str, Any]]:
    """Of the matrix's contrasts those whose rows have all collections: name, `difference`, p, and Holm's over all that are asked for."""
    collections = _collections(matrix, values)
    recipes = [name for name in matrix.recipes if all((name, "recipe", c) in values for c in collections)]
    plain = max(_plain(matrix, recipes), key=lambda name: min(len(values[name, "recipe", c]) for c in collections), default=None)

    def row(name: str) -> ByCollection | None:
        own, fused = (name, "") if name in matrix.recipes else (name.removesuffix(FUSED), _FUSED if name.endswith(FUSED) else "")
        recipe, system = (own, "recipe") if own in matrix.recipes else (plain, own)
        found = {c: values[recipe, system + fused, c] for c in collections if recipe and (recipe, system + fused, c) in values}
        return found if len(found) == len(collections) else None

    there = [(f"{one} − {other}", first, second) for one, other in matrix.contrasts if (first := row(one)) and (second := row(other))]
    found = [(name, compare(*_of_the_same_seeds(first, second))) for name, first, second in there]
    adjusted = holm([difference.p for _, difference in found] + [1.0] * (len(matrix.contrasts) - len(found)))
    return [{"name": name, "difference": difference, "holm": p} for (name, difference), p in zip(found, adjusted, strict=False)]


def guards(matrix: Matrix, facts: dict[str, dict[str, Any]], values: Values) -> list[dict[str, Any]]:
    """What the guard said against what the judged queries say, over all cells, each model once: how often it named the adapted model
    where that was better and where not, how often the start, and Kendall's tau-b of its difference with theirs. A row a way of asking."""
    found = []
    for name, of, system in (
        # In training it judged the weights before they were averaged with the start's.
        ("in training", lambda cell: cell["guard"] if cell["model"] == cell["tuned"] else None, ""),
        ("other queries, other documents", lambda cell: (cell["outside"] or {}).get("plain"), ""),
        ("the same, with BM25's score added", lambda cell: (cell["outside"] or {}).get("fused"), _FUSED),
    ):
        seen: dict[tuple[str, str], tuple[dict[str, Any], float]] = {}
        for cell, own in facts.items():
            collection, recipe, seed = cell.split("/")
            if own.get("model") and (verdict := of(own)):
                tuned, start = (values[recipe, f"{kind}{system}", collection][int(seed)] for kind in ("recipe", "start"))
                gain = float(np.mean([tuned[query] - start[query] for query in tuned]))
                seen.setdefault((collection, own["model"]), (verdict, gain))
        if seen:
            said, gains = [verdict["use"] == "tuned" for verdict, _ in seen.values()], [gain for _, gain in seen.values()]
            tau = stats.kendalltau([verdict["difference"] for verdict, _ in seen.values()], gains).statistic if len(seen) > 1 else None
            counted = Counter((use, gain > 0) for use, gain in zip(said, gains, strict=True))
            found.append({
                "name": name, "models": len(seen), "tau": None if tau is None or np.isnan(tau) else float(tau),
                "tuned_better": counted[True, True], "tuned_not": counted[True, False],
                "start_better": counted[False, True], "start_not": counted[False, False]})
    return found


def _of_the_same_seeds(one: ByCollection, other: ByCollection) -> tuple[ByCollection, ByCollection]:
    """Those that both have; of sides that share none (BM25 has no seed that matters), all."""
    shared = {c: one[c].keys() & other[c].keys() for c in one}
    if not all(shared.values()):
        return one, other
    return {c: {seed: one[c][seed] for seed in shared[c]} for c in one}, {c: {seed: other[c][seed] for seed in shared[c]} for c in one}


def _collections(matrix: Matrix, values: Values) -> list[str]:
    return [name for name in matrix.collections if any(collection == name for _, _, collection in values)]


def _references(matrix: Matrix, recipe: str, recipes: Sequence[str]) -> list[str]:
    """The recipes whose start another may be compared with, the best first: itself; but where it weighs BM25 in its own way, or trains
    nothing and changes the start in another, those before that do not change it. Against a start that its own weight spoils, any recipe
    would look good, and one that trains nothing is itself its start."""
    settings = matrix.recipes[recipe]
    changed = _OF_THE_START & settings.run.keys()
    own_start = not changed or (settings.train and changed != {"fusion"})
    return [recipe] if own_start else [*_plain(matrix, recipes), recipe]


def _plain(matrix: Matrix, recipes: Sequence[str]) -> list[str]:
    """Recipes that leave the start as it is."""
    return [name for name in recipes if not _OF_THE_START & matrix.recipes[name].run.keys()]


def _alike(own: dict[str, ByCollection]) -> list[tuple[list[str], ByCollection]]:
    """Recipes whose figures are the same wherever both have some, with these figures. The largest group comes first, without names."""
    groups: list[tuple[list[str], ByCollection]] = []
    for name, by in own.items():
        for names, of_group in groups:
            shared = [(of_group[c][seed], by[c][seed]) for c in by if c in of_group for seed in by[c] if seed in of_group[c]]
            if shared and all(one == other for one, other in shared):
                names.append(name)
                of_group |= {c: {**of_group.get(c, {}), **seeds} for c, seeds in by.items()}
                break
        else:
            groups.append(([name], dict(by)))
    groups.sort(key=lambda group: -len(group[0]))
    return [([] if i == 0 else names, by) for i, (names, by) in enumerate(groups)]


def _means(by: ByCollection, collections: list[str]) -> dict[str, Any]:
    """nDCG@10 x 100, means over queries and seeds, and the spread of the seeds' means."""
    seeds = {c: [100 * float(np.mean(list(v.values()))) for v in found.values()] for c, found in by.items()}
    figures = {c: float(np.mean(means)) for c, means in seeds.items()}
    whole = len(figures) == len(collections)
    rest = [v for c, v in figures.items() if c.lower() != _ARGUANA]
    return {
        "figures": figures,
        "spread": {c: float(np.std(means, ddof=1)) for c, means in seeds.items() if len(means) > 1},
        "mean": float(np.mean(list(figures.values()))) if whole else None,
        "without_arguana": float(np.mean(rest)) if whole and 0 < len(rest) < len(figures) else None,
        "seeds": max(map(len, seeds.values()), default=0), "difference": None, "holm": None,
    }


def _quality(facts: dict[str, dict[str, Any]], recipe: str) -> dict[str, Any]:
    """Means over its cells of what was measured of the generated queries."""
    own = [found["quality"] for name, found in facts.items() if name.split("/")[1] == recipe and found.get("quality")]
    means = {}
    for name, (_, fact) in _QUALITY.items():
        means[name] = _mean([found[name][fact] for found in own])
    return {"quality": means}


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _costs(facts: dict[str, dict[str, Any]], recipe: str, whole: bool, judged: bool) -> dict[str, Any]:
    """Mean costs of its cells, where it has all collections (`whole`), and, where it was what ranks that the guard judged (`judged`), how
    often the guard was for it. Seconds of different machines are not set beside one another."""
    own = [found for name, found in facts.items() if name.split("/")[1] == recipe]
    verdicts = [found["guard"]["use"] for found in own if judged and found.get("guard")]
    costs = [Cost.of(found) for found in own] if whole else []
    alike = len(_machines(facts)) == 1
    return {
        "seconds": _mean([cost.seconds for cost in costs if alike]), "flops": _mean([cost.flops for cost in costs]),
        "parameters": next((cost.parameters for cost in costs if cost.parameters), None),
        "guard": f"{verdicts.count('tuned')} of {len(verdicts)}" if verdicts else "", **_trained_on(own),
    }


def _trained_on(own: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Means over cells in words: documents (steps), and loss (share in the right order) of Eq. 6; "" where there is none."""
    trained = [found["trained_on"] for found in own if found.get("trained_on")]
    documents, steps, loss, right = (
        _mean([found.get(name) for found in trained]) for name in ("documents_trained", "steps", "eq_6", "eq_6_right"))
    return {
        "trained_on": "" if documents is None else f"{documents:.0f}" + (f" ({steps:.0f})" if steps is not None else ""),
        "eq_6": "" if loss is None or right is None else f"{loss:.2f} ({right:.2f})",
    }
