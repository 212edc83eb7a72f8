"""The command line: help, layers, dry run, errors, exit codes."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from readqg import cli
from readqg.stopping import Stopped


def run(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_help_lists_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help(capsys, name):
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    assert cli.api_doc(name).split()[0] in out


def test_a_reader_that_leaves_early_is_no_traceback():
    """`readqg --help | head` and the like."""
    for words in ([], ["generate", "--help"]):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([sys.executable, "-m", "readqg.cli", *words], stdout=write, stderr=subprocess.PIPE, text=True)
        os.close(write)
        assert done.returncode == 1 and done.stderr == ""


def test_what_the_system_refuses_is_said_without_a_traceback(capsys, tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "some text"}\n')
    code, _, err = run(capsys, "import", "--source", str(tmp_path), "--out", str(tmp_path / ("long" * 100)))
    assert code == 1 and "File name too long" in err and "the same command goes on" in err and "Traceback" not in err


def test_an_unknown_command_names_those_there_are(capsys):
    code, _, err = run(capsys, "generrate")
    assert code == 2
    assert "Perhaps you meant generate." in err and "train-reranker" in err.replace("\n", "")


def test_flags_win_over_the_file_which_wins_over_the_preset(capsys, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("documents: my-docs\nmax_new_tokens: 20\ntop_k: 5\n")
    code, out, _ = run(capsys, "generate", "--config", str(file), "--top-k", "7", "--out", "q", "--dry-run")
    resolved = yaml.safe_load(out)
    assert code == 0
    assert (resolved["documents"], resolved["max_new_tokens"], resolved["top_k"], resolved["samples"]) == ("my-docs", 20, 7, 1)


def test_a_preset_reaches_nested_fields(capsys):
    _, out, _ = run(capsys, "run", "--corpus", "x", "--preset", "authors", "--dry-run")
    assert yaml.safe_load(out)["reranker"]["sign"] == "authors"


@pytest.mark.parametrize("flag", ["--document-count", "--document_count"])
def test_a_plan_of_counts_is_not_cut_to_the_samples_size(capsys, flag):
    _, out, _ = run(capsys, "plan", flag, "8841823", "--mean-document-tokens", "75", "--dry-run")
    assert yaml.safe_load(out)["max_documents"] is None


def test_help_tells_of_everybody_s_corpus_not_of_the_samples_settings(capsys):
    _, plain, _ = run(capsys, "run", "--help")
    _, own, _ = run(capsys, "run", "--corpus", "x", "--help")
    assert plain.partition("--retrieve.top-k")[2][:80] == own.partition("--retrieve.top-k")[2][:80] != ""


def test_without_a_corpus_the_sample_is_cut_to_fit(capsys):
    _, out, _ = run(capsys, "run", "--dry-run")
    small = yaml.safe_load(out)
    _, out, _ = run(capsys, "run", "--corpus", "x", "--dry-run")
    assert small["max_documents"] is not None
    assert yaml.safe_load(out)["max_documents"] is None


def test_a_dry_run_is_a_config_file(capsys, tmp_path):
    _, out, _ = run(capsys, "run", "--corpus", "x", "--max-documents", "5", "--dry-run")
    (tmp_path / "c.yaml").write_text(out)
    _, again, _ = run(capsys, "run", "--config", str(tmp_path / "c.yaml"), "--dry-run")
    assert again == out


def test_a_missing_flag_is_named(capsys):
    code, _, err = run(capsys, "generate", "--documents", "x")
    assert code == 2
    assert "--out" in err


def test_an_unknown_field_in_the_file_is_named(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("documnts: x\n")
    code, _, err = run(capsys, "generate", "--config", str(tmp_path / "c.yaml"))
    assert code == 2
    assert "documnts" in err


def test_an_error_is_one_message_and_with_json_one_line(capsys, tmp_path):
    code, out, err = run(capsys, "verify", str(tmp_path / "absent"), "--json")
    assert code == 1
    assert "no such folder" in err
    assert "Traceback" not in err
    last = json.loads(out.splitlines()[-1])
    assert (last["command"], last["error"], last["exit_code"]) == ("verify", "InputError", 1)


@pytest.mark.parametrize("argv, named", [
    (["trian"], "trian"), (["generate", "--documents", "x"], "--out"),
    (["generate", "--documents", "x", "--out", "y", "--top-kk", "3"], "--top-kk"),
    (["generate", "--documents", "x", "--out", "y", "--top-k", "0"], "--top-k"), (["generate", "--config", "absent.yaml"], "absent.yaml"),
])
def test_what_cannot_be_understood_is_code_2_and_with_json_one_line(capsys, argv, named):
    code, out, err = run(capsys, *argv, "--json")
    assert code == 2 and named in err
    (line,) = out.splitlines()
    last = json.loads(line)
    assert (last["command"], last["error"], last["exit_code"]) == (argv[0], "ConfigError", 2) and named in last["message"]
    assert "│" not in last["message"]


@pytest.mark.parametrize("at", [1, 2, 6])
def test_a_dry_run_of_submit_submits_nothing(capsys, at):
    argv = ["submit", "run", "--address", "http://127.0.0.1:9", "--corpus", "x"]
    code, out, err = run(capsys, *argv[:at], "--dry-run", *argv[at:])
    resolved = yaml.safe_load(out)
    assert code == 0, err
    assert (resolved["stage"], resolved["flags"][:2]) == ("run", ["--corpus", "x"])


@pytest.mark.parametrize("typed, expected", [
    ("readqg tr", {"train-reranker", "train-generator"}), ("readqg generate --top", {"--top-k"}),
    ("readqg generate --documents x --decoding ", {"greedy", "beam", "top_k"}),
])
def test_bash_completes_commands_and_flags(capsys, tmp_path, typed, expected):
    code, script, _ = run(capsys, "--completion", "bash")
    assert code == 0
    (tmp_path / "completion").write_text(script)
    complete = """
        source "$1"
        COMP_LINE="$2"; COMP_POINT=${#COMP_LINE}; read -ra COMP_WORDS <<< "$2"; [[ $2 == *' ' ]] && COMP_WORDS+=('')
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        function=$(complete -p readqg | sed 's/.*-F \\([^ ]*\\).*/\\1/'); $function readqg "${COMP_WORDS[-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "-c", complete, "bash", tmp_path / "completion", typed], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_can_read_its_completion(capsys, tmp_path):
    _, script, _ = run(capsys, "--completion", "zsh")
    (tmp_path / "_readqg").write_text(script)
    subprocess.run(["zsh", "-n", tmp_path / "_readqg"], check=True)
    assert script.startswith("#compdef readqg") and "train-reranker" in script


@pytest.mark.slow
def test_standard_output_stays_free_of_what_libraries_say():
    asked = "from readqg import cli; cli._logs(); from deepspeed.accelerator import get_accelerator; get_accelerator()"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_completion_for_no_shell_that_is_known_says_which_are(capsys):
    code, _, err = run(capsys, "--completion", "fish")
    assert code == 2 and "bash|zsh|tcsh" in err


def test_ctrl_c_is_code_130_and_with_json_one_line(capsys, monkeypatch):
    def stop(config):
        raise Stopped(signal.SIGINT)

    monkeypatch.setitem(cli.COMMANDS, "verify", cli.COMMANDS["verify"]._replace(function=stop))
    code, out, err = run(capsys, "verify", "x", "--json")
    assert code == 130 and "goes on from there" in err
    assert json.loads(out)["exit_code"] == 130


@pytest.mark.parametrize(("flags", "said"), [
    (["--max-documents", "1"], "readqg run: --max-documents: Input should be greater than or equal to 3; found 1"),
    (["--generate.temperature", "-1"], "readqg run: --generate.temperature: Input should be greater than 0; found -1.0"),
    (["--sampling", "coverage"],
     "readqg run: sampling: coverage needs max_documents, the number of documents that queries are written for"),
])
def test_a_value_that_is_not_allowed_is_said_in_one_line_with_its_flag(capsys, flags, said):
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--corpus", "x", "--out", "y", *flags])
    assert stop.value.code == 2 and capsys.readouterr().err == said + "\n"


def test_what_the_package_offers_is_what_its_api_has():
    import inspect
    import pkgutil

    import readqg
    from readqg import api

    own = {name for name, found in vars(api).items()
           if inspect.isfunction(found) and found.__module__ == api.__name__ and not name.startswith("_")} - {"experiment_cells"}
    assert own | {"RelevanceAwareLoss"} == set(readqg.__all__) <= set(dir(readqg))
    assert [name for name in own if getattr(readqg, name) is not getattr(api, name)] == []
    modules = {module.name for module in pkgutil.iter_modules(readqg.__path__)}
    assert not modules & own, "a module that is imported would stand in the function's place"
