"""Which addresses are refused, and with what advice; the token stays where it is."""

import logging
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import aiohttp
import pytest
import ray
from ray.job_submission import JobDetails, JobStatus

from readqg import cli
from readqg.config import Compute, SubmitConfig
from readqg.engine import access, cluster, submit
from readqg.errors import ConfigError, RunError

SECRET = "5ecre7" * 10


@pytest.fixture
def token(forget_token, tmp_path, monkeypatch):
    (tmp_path / "token").write_text(SECRET)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)


@pytest.fixture
def no_token(forget_token, tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.usefixtures("no_token")
@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "http://localhost:8265", "http://[::1]:8265", "127.0.0.1:6379",
                                     "ray://127.0.0.1:10001", "https://127.0.0.1"])
def test_loopback_is_let_through(address):
    access.check_address(address)


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("address", ["http://10.0.0.5:8265", "http://ray.example.org:8265", "http://127.0.0.1.example.org",
                                     "http://0.0.0.0:8265", "ray://10.0.0.5:10001"])
def test_what_would_send_the_token_in_the_clear_is_refused_with_the_tunnel(address):
    with pytest.raises(ConfigError, match=r"in the clear\. Open a tunnel, `ssh -N -L 8265:127\.0\.0\.1:8265 HEAD`") as error:
        access.check_address(address)
    assert SECRET not in str(error.value)


@pytest.mark.usefixtures("no_token")
@pytest.mark.parametrize("address", ["https://ray.example.org", "10.0.0.5:6379"])
def test_off_loopback_without_a_token_is_refused_with_how_to_make_one(address):
    with pytest.raises(ConfigError, match=r"there is no token.*ray get-auth-token --generate"):
        access.check_address(address)


@pytest.mark.usefixtures("token")
def test_off_loopback_with_a_token_is_let_through():
    access.check_address("https://ray.example.org")
    access.check_address("10.0.0.5:6379")


def test_a_token_that_is_there_counts_only_where_it_is_sent(token, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigError, match="no token"):
        access.check_address("https://ray.example.org")


@pytest.mark.usefixtures("no_token")
def test_a_token_in_the_home_folder_turns_authentication_on(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "")  # so that it is put back
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    access.use_token_if_there()
    assert not access.sends_token()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(SECRET)
    monkeypatch.setitem(sys.modules, "ray", ray)  # imported before: it has read its mode
    access.use_token_if_there()
    assert not access.sends_token()
    monkeypatch.delitem(sys.modules, "ray")
    access.use_token_if_there()
    assert access.sends_token()


@pytest.mark.slow
@pytest.mark.usefixtures("no_token")
def test_a_ray_of_ones_own_gets_a_token_that_is_on_no_disk_and_two_at_once_get_two(tmp_path):
    """In processes of their own, on a machine where nobody has made a token yet: where both write one, one of them is refused."""
    program = ("import os, ray; from readqg.config import Compute; from readqg.engine import cluster\n"
               "with cluster.connect(Compute()): print(ray.get(ray.remote(lambda: os.environ['RAY_AUTH_TOKEN']).remote()))")
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    tokens = [process.communicate(timeout=120)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(set(tokens)) == 2 and min(map(len, tokens)) == 64
    assert not (tmp_path / ".ray").exists()


@pytest.mark.usefixtures("no_token")
@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN_PATH", "/nowhere/token")])
def test_what_the_environment_says_of_tokens_stands(monkeypatch, name, value):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.delenv("RAY_AUTH_TOKEN")  # so that it is put back
    monkeypatch.setenv(name, value)
    access.make_token_if_none()
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.usefixtures("no_token")
def test_a_token_of_ones_own_is_sent_to_no_other_cluster(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.delenv("RAY_AUTH_TOKEN")  # so that it is put back
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    access.make_token_if_none()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64 and not access.sends_token()
    with pytest.raises(ConfigError, match="no token"):
        access.check_address("https://ray.example.org")


@pytest.mark.parametrize("address", ["", "ftp://127.0.0.1", "http://", "file:///etc/passwd"])
def test_what_is_no_address_is_said(address):
    with pytest.raises(ConfigError, match="is no address of a cluster"):
        access.check_address(address)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="may not hold a user or a password") as error:
        access.check_address(f"https://me:{SECRET}@ray.example.org")
    assert SECRET not in str(error.value)


@pytest.mark.usefixtures("no_token")
def test_a_stage_is_not_run_on_a_cluster_that_is_open_to_all():
    assert not ray.is_initialized()
    with pytest.raises(ConfigError, match="there is no token"), cluster.connect(Compute(ray_address="10.0.0.5:6379")):
        pass


@pytest.mark.parametrize(("version", "refused"), [
    ("2.53.0", True), ("2.9.3", True), ("1.13.0", True), ("2.54.0", False), ("3.0.0rc1", False)])
def test_a_ray_with_a_known_hole_is_refused(version, refused):
    if not refused:
        access.check_version(version, "here")
        return
    with pytest.raises(ConfigError, match=f"Ray {version} on the head is older than 2.54"):
        access.check_version(version, "on the head")


class Server(BaseHTTPRequestHandler):
    """A jobs server of some Ray version that asks nobody for a token."""

    version, seen = "2.60.0", []

    def do_GET(self):
        self.seen.append((self.path, self.headers.get("Authorization")))
        body = f'{{"version": "4", "ray_version": "{self.version}", "ray_commit": "x", "session_name": "s"}}'.encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Server.seen = []
    made = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()


def config(address, **more):
    return SubmitConfig(address=address, stage="import", **more)


@pytest.mark.usefixtures("token")
def test_a_cluster_with_an_old_ray_gets_no_job(server, monkeypatch):
    monkeypatch.setattr(Server, "version", "2.40.0")
    with pytest.raises(ConfigError, match=r"Ray 2\.40\.0 on http://127\.0\.0\.1:\d+ is older"):
        submit.submit(config(server))


@pytest.mark.usefixtures("token")
def test_an_open_cluster_off_loopback_gets_no_job(server, monkeypatch):
    monkeypatch.setattr(access, "is_loopback", lambda host: False)
    monkeypatch.setattr(access, "check_address", lambda address: None)  # http off loopback does not get this far
    with pytest.raises(ConfigError, match="lets in whoever reaches it, without a token"):
        submit.submit(config(server))
    assert (f"{server}/api/jobs/".removeprefix(server), None) in Server.seen


@pytest.mark.usefixtures("token")
def test_an_open_cluster_on_loopback_is_warned_about(server, caplog):
    with caplog.at_level(logging.WARNING, "readqg"):
        submit._client(server)
    assert "wants no token" in caplog.text and SECRET not in caplog.text


@pytest.mark.usefixtures("token")
def test_an_address_in_the_environment_does_not_take_the_place_of_the_one_that_was_checked(server, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://10.0.0.5:8265")
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.6:8265")
    assert submit._client(server).get_address() == server


def test_a_server_that_is_not_there_is_said_without_a_traceback(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["submit", "import", "--address", "http://127.0.0.1:9", "--source", "x", "--out", "y"])
    err = capsys.readouterr().err
    assert stop.value.code == 1 and "does not answer as a Ray cluster" in err and "Traceback" not in err


def test_a_checkout_is_what_is_sent(tmp_path):
    with pytest.raises(ConfigError, match=r"is no checkout of ReadQG \(no jobs/ in it\)"):
        submit._environment(config("http://127.0.0.1:1", working_dir=str(tmp_path)))


def test_a_token_in_the_runtime_environment_is_refused(tmp_path):
    (tmp_path / "env.yaml").write_text(f"env_vars: {{RAY_AUTH_TOKEN: {SECRET}}}\n")
    with pytest.raises(ConfigError, match="holds a token in env_vars") as error:
        submit._environment(config("http://127.0.0.1:1", runtime_env=str(tmp_path / "env.yaml")))
    assert SECRET not in str(error.value)


def test_a_wrong_flag_of_the_stage_costs_no_job(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["submit", "generate", "--address", "http://127.0.0.1:9", "--documets", "x", "--out", "y"])
    assert stop.value.code == 2 and "--documets" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "command"), [
    (["import", "--source", "a b", "--out", "o"], "python -m jobs.import_corpus --source 'a b' --out o"),
    (["train-reranker", "--queries", "q", "--documents", "d", "--out", "o;rm -rf /"],
     "python -m jobs.train_reranker --queries q --documents d --out 'o;rm -rf /' --compute.ray-address auto"),
    (["tune", "reranker", "--queries", "q", "--documents", "d", "--out", "o", "--compute.ray-address", "auto"],
     "python -m jobs.tune_reranker --queries q --documents d --out o --compute.ray-address auto"),
    (["train-reranker", "--queries", "q", "--documents", "d", "--from", "x", "--out", "o"],
     "python -m jobs.train_reranker --queries q --documents d --start x --out o --compute.ray-address auto"),
    (["experiment", "jobs/experiments/tiny.yaml", "--out", "o"],
     "python -m jobs.experiment --file jobs/experiments/tiny.yaml --out o --ray-address auto"),
])
def test_the_command_is_that_of_the_script_with_every_flag_quoted(words, command):
    own, passed = cli._split_submit(["submit", *words, "--address", "http://127.0.0.1:1"])
    chosen = cli._checked_submit(SubmitConfig(address="http://127.0.0.1:1", stage=own[own.index("--stage") + 1]), passed)
    assert submit.entrypoint(chosen.stage, chosen.flags) == command


@pytest.mark.usefixtures("token")
def test_what_goes_to_a_tunnel_of_this_machine_goes_through_no_proxy(server, monkeypatch):
    proxy = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "example.org")
    submit._client(server)
    assert any(path.startswith("http://") for path, _ in Server.seen), "a proxy is asked for whole addresses"
    Server.seen.clear()
    submit._without_a_proxy(server)
    submit._client(server)
    proxy.shutdown()
    assert Server.seen and all(path.startswith("/") for path, _ in Server.seen)
    assert os.environ["NO_PROXY"] == "example.org,127.0.0.1"


class Faltering:
    """Ray's client behind a tunnel that breaks in the middle of the log, and once when the job's end is asked for."""

    def __init__(self):
        self.asked = 0

    def get_job_info(self, job):
        self.asked += 1
        if self.asked == 2:
            raise ConnectionError("the tunnel is down")
        return JobDetails(type="SUBMISSION", submission_id=job, entrypoint="x",
                          status=JobStatus.SUCCEEDED if self.asked > 3 else JobStatus.RUNNING)

    async def tail_job_logs(self, job):
        yield "one\n"
        if self.asked == 1:
            raise aiohttp.ServerDisconnectedError
        yield "two\n"
        if self.asked > 3:
            yield "three\n"


def test_a_log_is_printed_once_however_often_the_connection_breaks(monkeypatch, capsys):
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)
    client = Faltering()
    assert submit._follow(client, "job").status == JobStatus.SUCCEEDED
    assert capsys.readouterr().out == "one\ntwo\nthree\n" and client.asked == 4


def test_no_job_for_what_answers_at_once():
    with pytest.raises(ConfigError, match="no stage that runs as a job"):
        submit._environment(SubmitConfig(address="http://127.0.0.1:1", stage="verify"))


def test_an_unreadable_cluster_is_a_run_error():
    with pytest.raises(RunError, match="does not answer"):
        submit._client("http://127.0.0.1:9")
