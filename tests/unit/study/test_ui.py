"""`study ui` with a small program in the place of MLflow: ports, sentences, and what is left of it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from search_spaces import UserError
from study import addresses, live, optuna_ui, pages, ui, usage
from study.home import Home
from study.live import Live
from tests.unit.study.conftest import a_study

ROOT = Path(__file__).parents[3]
SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
DRIVER = """
import functools, sys
from pathlib import Path
from study import ui, pages
from study.home import Home
ui.importlib.util.find_spec = lambda name: None
def mlflow(home, tracking, port, scratch):
    command = [sys.executable, "-c", Path(sys.argv[2]).read_text(), str(port)]
    return pages.Page(name=ui.MLFLOW, port=port, command=command, environment={}, folder=scratch)
ui._mlflow = mlflow
ui.serve(Home.at(sys.argv[1]), None, functools.partial(print, flush=True), port=int(sys.argv[3]))
"""


@pytest.fixture
def home(tmp_path):
    """Of one study, which was started and is not running."""
    home = Home(tmp_path / "runs")
    home.study("toy").freeze(a_study())
    return home


@pytest.fixture
def taken():
    """A port on which somebody listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_it_is_told_to_end(home, tmp_path, number):
    (tmp_path / "server.py").write_text(SERVER)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    port = pages.free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(home.path), str(tmp_path / "server.py"), str(port)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines[0] == f"MLflow: http://127.0.0.1:{port}  all studies of the home\n"
    assert "optuna-dashboard is not installed: `pip install '.[ui]'` adds it." in "".join(lines)
    assert f"ssh -L {port}:127.0.0.1:{port} THIS-MACHINE. Ctrl-C ends it." in "".join(lines)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2
    process.send_signal(number)
    rest = process.communicate(timeout=30)
    assert (process.returncode, rest) == (0, ("", ""))
    assert [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert list(scratch.iterdir()) == []
    assert pages.is_free(port)


def test_a_program_that_does_not_start_is_told_in_its_own_words(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('no database at sqlite://u:secret@x/y.')"]
    page = pages.Page(
        name="MLflow", port=pages.free_port(), command=command, environment={}, folder=tmp_path,
        secrets=["sqlite://u:secret@x/y"],
    )  # fmt: skip
    with pytest.raises(UserError) as error, pages.started([page]):
        pass
    assert str(error.value).endswith("but: no database at sqlite://***@x/y; see its database.")
    assert "secret" not in str(error.value)


def test_a_home_without_studies_is_one_sentence(tmp_path):
    with pytest.raises(
        UserError, match=r"No study was started in .*, so there is nothing to show; start one"
    ):
        ui.chosen(Home(tmp_path / "empty"), None)
    with pytest.raises(UserError, match="No study 'tpy' was started"):
        ui.chosen(Home(tmp_path / "empty"), "tpy")


def test_without_a_name_the_running_study_is_shown_else_the_latest(home):
    later = home.study("later")
    later.path.mkdir()
    shutil.copy(home.study("toy").path / "spec.json", later.path / "spec.json")
    os.utime(home.study("toy").path / "spec.json", (1, 1))
    assert ui.chosen(home, None).path.name == "later"
    assert ui.chosen(home, "toy").path.name == "toy"
    with home.study("toy").locked():
        assert ui.chosen(home, None).path.name == "toy"


def test_a_usual_port_that_is_taken_is_replaced_and_said(taken):
    said = []
    port = ui._port(None, taken, "MLflow", said.append)
    assert port != taken
    assert said == [f"Port {taken} is taken: MLflow uses {port}."]
    free = pages.free_port()
    assert ui._port(None, free, "MLflow", said.append) == free
    assert ui._port(free, taken, "MLflow", said.append) == free
    assert len(said) == 1


def test_a_port_that_was_asked_for_must_be_free(taken):
    with pytest.raises(UserError, match=f"somebody listens on {taken}; leave it out"):
        ui._port(taken, 5000, "MLflow", print)
    with pytest.raises(UserError, match="--port must be 1 to 65535, but got 70000"):
        ui._port(70000, 5000, "MLflow", print)


def test_a_home_whose_studies_were_tracked_elsewhere(home, tmp_path):
    with pytest.raises(UserError, match="the studies were tracked elsewhere; name that address"):
        ui._mlflow(home, "", 5000, tmp_path)


def test_mlflow_checks_hosts_and_no_address_is_on_its_command_line(home, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
    page = ui._mlflow(home, "postgresql://u:secret@db/mlflow", 5001, tmp_path)
    command = list(page.command)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--allowed-hosts") + 1] == "127.0.0.1:5001,localhost:5001"
    assert "*" not in command[command.index("--cors-allowed-origins") + 1]
    assert not any("secret" in word for word in command)
    assert page.environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://u:secret@db/mlflow"
    assert not any("DISABLE_SECURITY" in name for name in page.environment)


def test_the_stores_of_a_study_are_found_again_without_their_passwords(tmp_path):
    assert addresses.remembered(tmp_path) == addresses.Addresses("", "")
    addresses.remember(tmp_path, None, None)
    assert addresses.remembered(tmp_path) == addresses.Addresses("", "")
    addresses.remember(tmp_path, "http://tracking:5000", "postgresql://u:secret@db/optuna")
    assert addresses.remembered(tmp_path) == addresses.Addresses(
        "http://tracking:5000", "postgresql://***@db/optuna"
    )
    assert "secret" not in (tmp_path / addresses.FILE).read_text()
    with pytest.raises(
        UserError, match=r"whose password is written nowhere; give .* in STUDY_OPTUNA_STORAGE"
    ):
        ui._with_password(addresses.remembered(tmp_path).optuna, "--optuna-storage")
    (tmp_path / addresses.FILE).write_text("{")
    assert addresses.remembered(tmp_path) == addresses.Addresses("", "")


def test_rays_dashboard_is_named_while_a_study_runs(home):
    told = Live(started=0.0, slots=1, running=(), usage=usage.Usage(used=1, total=2))
    folder = home.study("toy")
    live.write(folder.path, told)
    assert list(ui._ray(home)) == []
    with folder.locked():
        (line,) = ui._ray(home)
        assert line == "Ray's dashboard of toy: none; `python -m study run toy --dashboard` starts it"
        raw = json.loads((folder.path / live.FILE).read_text())
        (folder.path / live.FILE).write_text(json.dumps({**raw, "dashboard": "http://127.0.0.1:8265"}))
        assert list(ui._ray(home)) == ["Ray's dashboard of toy: http://127.0.0.1:8265"]


@pytest.mark.parametrize(
    ("method", "host", "status"),
    [("GET", "127.0.0.1:8080", "200 OK"), ("HEAD", "localhost:8080", "200 OK"),
     ("DELETE", "127.0.0.1:8080", "403 Forbidden"), ("POST", "localhost:8080", "403 Forbidden"),
     ("PUT", "127.0.0.1:8080", "403 Forbidden"), ("GET", "evil.example:8080", "403 Forbidden"),
     ("GET", "127.0.0.1:9999", "403 Forbidden"), ("GET", None, "403 Forbidden")],
)  # fmt: skip
def test_optuna_dashboard_is_for_looking_from_this_machine(method, host, status):
    seen = []

    def application(environ, start_response):
        start_response("200 OK", [])
        return [b"page"]

    environ = {"REQUEST_METHOD": method, **({} if host is None else {"HTTP_HOST": host})}
    body = optuna_ui.for_looking(application, 8080)(environ, lambda status, headers: seen.append(status))
    assert seen == [status]
    assert (body == [b"page"]) == (status == "200 OK")
