"""The commands that the job scripts begin with are commands."""

import re
from pathlib import Path

import pytest

from readqg import cli

SCRIPTS = sorted(p for p in (Path(__file__).parents[1] / "jobs").glob("*.py") if p.name != "__init__.py")


def commands(script):
    text = script.read_text().split('"""')[1].replace("\\\\\n", " ")
    return re.findall(rf"python -m jobs\.{script.stem} (.*)", text)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_every_command_of_a_script_resolves(script, capsys):
    name = re.search(r'job\("(.+)"\)', script.read_text())[1]
    assert len(commands(script)) == 3
    for command in commands(script):
        with pytest.raises(SystemExit) as stop:
            cli.main([name, *command.split(), "--dry-run"])
        assert stop.value.code == 0, (command, capsys.readouterr().err)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_script_is_short_and_its_commands_are_of_ray_job_submit(script):
    text = script.read_text()
    assert text.count("\n") <= 80
    assert text.count("ray job submit --address http://127.0.0.1:8265 --working-dir . -- ") == 3


def test_every_stage_has_a_script():
    names = {re.search(r'job\("(.+)"\)', script.read_text())[1] for script in SCRIPTS}
    alone = {"clean", "compare", "doctor", "evaluate", "inspect", "plan", "push", "search", "submit", "verify"}
    assert names == set(cli.COMMANDS) - alone
