"""The command line: `readqg STAGE --flags`, made from the config classes. No logic lives here."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import io
import itertools
import json
import logging
import operator
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from readqg import api, config
from readqg.errors import ConfigError, FolderError, ReadQGError
from readqg.stopping import Stopped, stoppable


class Command(NamedTuple):
    config: type[config.Settings]
    function: Any
    group: str
    positional: tuple[str, ...] = ()
    """Flags whose names may be left out before their values, in this order at the start."""
    starts_from: str = ""
    """The flag that `--from` is another name of (no field can be called `from`)."""
    planned: Any = None
    """From the config to lines that `--dry-run` adds as comments."""


COMMANDS: dict[str, Command] = {
    "run": Command(config.RunConfig, api.run, "The whole way"),
    "import": Command(config.ImportConfig, api.import_corpus, "A corpus"),
    "import-queries": Command(config.ImportQueriesConfig, api.import_queries, "A corpus"),
    "coverage": Command(config.CoverageConfig, api.coverage, "A corpus"),
    "generate": Command(config.GenerateConfig, api.generate, "A corpus"),
    "select": Command(config.SelectConfig, api.select, "A corpus"),
    "round-trip": Command(config.RoundTripConfig, api.round_trip, "A corpus"),
    "ratio": Command(config.RatioConfig, api.ratio, "A corpus"),
    "score-queries": Command(config.ScoreQueriesConfig, api.score_queries, "A corpus"),
    "train-reranker": Command(config.TrainRerankerConfig, api.train_reranker, "A corpus", starts_from="start"),
    "retrieve": Command(config.RetrieveConfig, api.retrieve, "A corpus"),
    "retrieve-dense": Command(config.DenseConfig, api.retrieve_dense, "A corpus"),
    "rank": Command(config.RankConfig, api.rank, "A corpus"),
    "fuse": Command(config.FuseConfig, api.fuse, "A corpus"),
    "export": Command(config.ExportConfig, api.export, "A corpus"),
    "push": Command(config.PushConfig, api.push, "A corpus", ("folder", "to")),
    "label": Command(config.LabelConfig, api.label, "The generator, once"),
    "pairs": Command(config.PairsConfig, api.pairs, "The generator, once"),
    "train-generator": Command(
        config.TrainGeneratorConfig, api.train_generator, "The generator, once", starts_from="initial"
    ),
    "few-shot": Command(config.FewShotConfig, api.few_shot, "The generator, once"),
    "evaluate": Command(config.EvaluateConfig, api.evaluate, "Measures"),
    "compare": Command(config.CompareConfig, api.compare, "Measures", ("a", "b")),
    "quality": Command(config.QualityConfig, api.quality, "Measures"),
    "experiment": Command(config.ExperimentConfig, api.experiment, "Measures", ("file",), planned=api.experiment_cells),
    "search": Command(config.SearchConfig, api.search, "Measures", ("folder", "query")),
    "inspect": Command(config.InspectConfig, api.inspect, "Measures", ("queries",)),
    "plan": Command(config.PlanConfig, api.plan, "Measures"),
    "doctor": Command(config.DoctorConfig, api.doctor, "Measures"),
    "verify": Command(config.VerifyConfig, api.verify, "Measures", ("folder",)),
    "clean": Command(config.CleanConfig, api.clean, "Measures", ("folder",)),
    "tune-generator": Command(config.TuneGeneratorConfig, api.tune_generator, "Searches"),
    "tune-reranker": Command(config.TuneRerankerConfig, api.tune_reranker, "Searches"),
    "tune-pipeline": Command(config.TunePipelineConfig, api.tune_pipeline, "Searches"),
    "submit": Command(config.SubmitConfig, api.submit, "A cluster", ("stage",)),
}
EXIT_CODES = {
    0: "Done. (`verify`: nothing differs; `submit`: the job succeeded.)",
    1: "It could not be done, and the message says why and what to do. What was finished before stays. (`doctor`: something is missing; "
       "`experiment`: a cell failed.)",
    2: "The command as given cannot be understood: an unknown command, flag or field, a value out of range. Nothing was begun.",
    130: "Ended by Ctrl-C (`submit`: the job goes on). The same command goes on from there.",
    143: "Ended by SIGTERM. The same command goes on from there.",
}
# Parts of a summary that files of the output folder hold, or that a table has shown.
_NOT_SHOWN = {
    "parts", "files", "fingerprint", "config", "evaluation", "cut", "seconds", "stages", "if_larger", "findings", "rows", "rounds",
    "warnings", "exit_code",
}
_IN_SHORT = {"run": ("use", "use_folder", "report"), "plan": ("total",)}
"""Of commands that end with a table and a verdict: what is said once more, on standard output. With `--json`, all is."""


class _WrongFlags(ConfigError):
    """Of which tyro has told on standard error."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Ends with one of `EXIT_CODES`, or, from `submit`, with that of the job."""
    sys.exit(_main(list(sys.argv[1:] if argv is None else argv)))


def job(name: str) -> None:
    """Entry point of `jobs/`: command `name` with this process's flags and a JSON line at the end of the log."""
    sys.exit(_main([name, *sys.argv[1:], "--json"]))


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        _help()
        return 0
    if argv[0] == "--version":
        import readqg

        Console().print(f"readqg {readqg.__version__}", highlight=False)
        return 0
    if argv[0] == "--completion":
        return _completion(argv[1:])
    if argv[0] == "tune" and len(argv) > 1:
        argv = [f"tune-{argv[1]}", *argv[2:]]
    if argv[0] not in COMMANDS:
        like = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        message = f"no command {argv[0]!r}. {f'Perhaps you meant {like[0]}. ' if like else ''}There are: {', '.join(COMMANDS)}."
        Console(stderr=True).print(f"readqg: {message}", highlight=False, markup=False)
        return _failed(argv[0], ConfigError.__name__, message, "--json" in argv, 2)
    _logs()
    if argv[0] == "submit":
        argv, passed = _split_submit(argv)
    shared, rest = _shared_flags().parse_known_args(argv[1:])
    command = COMMANDS[argv[0]]
    rest = _plain(command, rest)
    try:
        chosen = _parse(argv[0], command.config, shared, rest)
        if isinstance(chosen, config.SubmitConfig):
            chosen = _checked_submit(chosen, passed)
        if shared.dry_run:
            Console().print(
                yaml.safe_dump(chosen.model_dump(mode="json"), sort_keys=False), markup=False, highlight=False, end=""
            )
            for line in command.planned(chosen) if command.planned else ():
                Console().print(f"# {line}", markup=False, highlight=False, soft_wrap=True)
            return 0
    except _WrongFlags as error:
        return _failed(argv[0], ConfigError.__name__, str(error), shared.json, 2)
    except ReadQGError as error:
        return _explained(argv[0], error, shared.json, 2)
    try:
        with stoppable():
            summary = command.function(chosen)
    except ReadQGError as error:
        return _explained(argv[0], error, shared.json, 1)
    except OSError as error:
        if error.errno is None:
            raise
        refused = FolderError(f"{error}. What is done stays: once that is mended, the same command goes on.")
        return _explained(argv[0], refused, shared.json, 1)
    except Stopped as stop:
        message = "Stopped. What is done stays: the same command goes on from there."
        Console(stderr=True).print(f"\n{message}")
        return _failed(argv[0], Stopped.__name__, message, shared.json, stop.exit_code)
    _show(argv[0], summary, shared.json)
    return int(summary.get("exit_code", 0))


def _logs() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("readqg").setLevel(logging.INFO)
    # transformers imports DeepSpeed, which says so on standard output where there is no GPU; `readqg doctor` says what that means.
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())


def _completion(shells: list[str]) -> int:
    """Print what a shell completes commands and their flags by."""
    if len(shells) != 1 or shells[0] not in ("bash", "zsh", "tcsh"):
        Console(stderr=True).print("readqg --completion bash|zsh|tcsh", highlight=False, markup=False)
        return 2
    kinds: list[Any] = [Annotated[command.config, tyro.conf.subcommand(name)] for name, command in COMMANDS.items()]
    with contextlib.suppress(SystemExit):  # how tyro ends
        tyro.cli(functools.reduce(operator.or_, kinds), prog="readqg", args=["--tyro-print-completion", shells[0]])
    return 0


def _shared_flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE")
    parser.add_argument("--preset", choices=sorted(config.PRESETS))
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser


def _plain(command: Command, words: list[str]) -> list[str]:
    """The words with each value behind its flag, and the flags as the config calls them."""
    words = _named(command.positional, words)
    return [re.sub("^--from(?==|$)", f"--{command.starts_from}", word) for word in words] if command.starts_from else words


def _named(names: tuple[str, ...], words: list[str]) -> list[str]:
    """The words with their flags' names before those at the start that lack them."""
    bare = list(itertools.takewhile(lambda word: not word.startswith("-"), words[: len(names)]))
    return [part for name, word in zip(names, bare, strict=False) for part in (f"--{name}", word)] + words[len(bare):]


def _split_submit(argv: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """`submit`'s own flags and the stage's name; all the others, which are the stage's. A dry run is one of `submit`, and a script in
    `jobs/` ends with its JSON line unasked."""
    own: list[str] = [argv[0]]
    passed: list[str] = []
    stage = False
    names = {f"--{name.replace('_', '-')}" for name in config.SubmitConfig.model_fields} - {"--flags"}
    rest = iter(argv[1:])
    for word in rest:
        if word.partition("=")[0] in names:
            own += [word] if "=" in word else [word, *([value] if (value := next(rest, None)) is not None else [])]
        elif not stage and not passed and (word in COMMANDS or word == "tune"):
            own += ["--stage", f"tune-{next(rest, '')}" if word == "tune" else word]
            stage = True
        elif word in ("--dry-run", "--json") or (word in ("-h", "--help") and not passed):
            own.append(word)
        else:
            passed.append(word)
    return own, tuple(passed)


def _checked_submit(chosen: config.SubmitConfig, flags: tuple[str, ...]) -> config.SubmitConfig:
    """With the stage's flags, which are tried here first: a typing error should not cost a job."""
    if chosen.stage and chosen.stage not in COMMANDS:
        raise ConfigError(f"{chosen.stage!r} is no stage. There are: {', '.join(COMMANDS)}.")
    if chosen.stage:
        command = COMMANDS[chosen.stage]
        flags = tuple(_plain(command, list(flags)))
        shared, rest = _shared_flags().parse_known_args(flags)
        parsed = _parse(chosen.stage, command.config, shared, rest)
        for where, flag in ((getattr(parsed, "compute", None), "--compute.ray-address"), (parsed, "--ray-address")):
            if getattr(where, "ray_address", "") is None:
                flags = (*flags, flag, "auto")
    return config.make(config.SubmitConfig, {**chosen.model_dump(), "flags": flags})


def _parse(name: str, cls: type[config.Settings], shared: argparse.Namespace, rest: list[str]) -> config.Settings:
    """Defaults, then the preset, then the file, then the flags."""
    file = _read_yaml(Path(shared.config)) if shared.config else {}
    asked = {flag.split("=")[0].replace("_", "-") for flag in rest}
    own = any(file.get(field) or f"--{field.replace('_', '-')}" in asked for field in ("corpus", "document_count"))
    own = own or bool(asked & {"-h", "--help"})  # which tells of everybody's corpus, not of the sample's small settings
    preset = shared.preset or (config.SAMPLE_PRESET if issubclass(cls, config.RunConfig) and not own else None)
    base = config.merge(config.preset(preset, cls) if preset else {}, file)
    default = config.partial(cls, base, tyro.MISSING)
    about = (
        api_doc(name)
        + "\n\nAlso: --config FILE (YAML of these fields), --preset "
        + "|".join(sorted(config.PRESETS))
        + ", --dry-run (print the resolved config), --json (one machine-readable line at the end)."
    )
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed = tyro.cli(cls, default=default, args=rest, prog=f"readqg {name}", description=about)
    except BrokenPipeError:  # `--help | head`: tyro prints without looking
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except SystemExit as stop:
        said = _of_values(name, stop) or errors.getvalue()
        sys.stderr.write(said)
        if not stop.code:
            raise
        raise _WrongFlags(" ".join(re.sub(r"[╭╮╰╯│─]", " ", said).split())) from None
    # tyro fills in the fields of a config made without validation, so it is made anew.
    return config.make(cls, parsed.model_dump())


def _of_values(name: str, stop: BaseException) -> str:
    """Which flags have values that are not allowed, where that is why tyro stopped; else "". It knows in which group of fields it was."""
    group, error = "", stop.__context__
    while error is not None and not isinstance(error, ValidationError):
        where = getattr(error, "arg", "")
        group, error = where if isinstance(where, str) and where else group, error.__context__
    lines = []
    for where, said in config.faults(error) if error else ():
        field = ".".join((*filter(None, group.split(".")), *where)).replace("_", "-")
        lines.append(f"readqg {name}: {f'--{field}: ' if field else ''}{said}\n")
    return "".join(lines)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path} is no YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path}: expected field: value lines, found {type(values).__name__}.")
    return values


def api_doc(name: str, paragraph: int = 0) -> str:
    """Of the command's function: what it does, and (1) what it returns, empty where that is not said."""
    paragraphs = (COMMANDS[name].function.__doc__ or "").split("\n\n")
    return " ".join(paragraphs[paragraph].split()) if paragraph < len(paragraphs) else ""


def _help() -> None:
    console = Console()
    console.print(
        "[bold]readqg[/] STAGE [--flags]: from a corpus without labelled queries to a re-ranker fine-tuned for it.\n",
        highlight=False,
    )
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        table = Table(
            title=group,
            title_justify="left",
            title_style="bold",
            box=None,
            show_header=False,
            pad_edge=False,
            padding=(0, 2, 0, 0),
        )
        table.add_column(min_width=16, style="cyan", no_wrap=True)
        table.add_column()
        for name, command in COMMANDS.items():
            if command.group == group:
                table.add_row(name, escape(api_doc(name)))
        console.print(table)
        console.print()
    console.print(
        "`readqg STAGE --help` lists a stage's flags. Every stage: --config FILE, --preset "
        + "|".join(sorted(config.PRESETS))
        + ", --dry-run, --json.\nThe same command again goes on where it stopped. "
        "`readqg --completion bash|zsh|tcsh` prints what a shell completes it by.",
        highlight=False,
        markup=False,
    )


def _explained(name: str, error: ReadQGError, as_json: bool, code: int) -> int:
    Console(stderr=True).print(f"readqg {name}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    return _failed(name, type(error).__name__, str(error), as_json, code)


def _failed(name: str, error: str, message: str, as_json: bool, code: int) -> int:
    if as_json:
        sys.stdout.write(json.dumps({"command": name, "error": error, "message": message, "exit_code": code}) + "\n")
    return code


def _show(name: str, summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"command": name, **summary}, default=str) + "\n")
        return
    shown = {k: v for k, v in summary.items() if k in _IN_SHORT.get(name, summary) and k not in _NOT_SHOWN and v is not None}
    for key, value in _flat(shown):
        Console().print(f"{key:<24} {value}", markup=False, highlight=False, soft_wrap=True)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", f"{value:.4f}" if isinstance(value, float) else str(value)))
    return lines


if __name__ == "__main__":
    main()
