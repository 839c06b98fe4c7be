"""The command line from outside: a sentence for every mistake, help for everything, no Ray for looking."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from study import cli
from study.home import Home
from tests.unit.study.conftest import World, a_study
from trainables.data import phantoms

ROOT = Path(__file__).parents[3]


class Result:
    def __init__(self, code, stdout, stderr):
        self.code, self.stdout, self.stderr = code, stdout, stderr


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """The least data that a phantom can be: a few images of 32 x 32."""
    path = tmp_path_factory.mktemp("data") / "lesions.parquet"
    phantoms.write("phantoms-lesions", path, cases=13, size=32)
    return path


@pytest.fixture
def home(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def call(monkeypatch, capsys, home):
    """Calls the program as `python -m study WORDS` in this process."""
    for name in ("STUDY_DATASET", "RAY_ADDRESS", "STUDY_OPTUNA_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STUDY_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(cli.out, "_environ", {"COLUMNS": "80"})

    def called(*words, program="study"):
        monkeypatch.setattr(sys, "argv", [program, *map(str, words)])
        arguments = ("python -m study.run", cli.run_only()) if program == "run" else ()
        with pytest.raises(SystemExit) as end:
            cli.main(*arguments)
        return Result(end.value.code or 0, *capsys.readouterr())

    return called


def check_mistake(result, *parts):
    """Exit code 2, one line on stderr, nothing else."""
    assert result.code == 2
    assert result.stdout == ""
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized()


STUDY_MISTAKES = [
    (["nosuch"], ["There is no study 'nosuch'.", "Studies: ablation_"]),
    (["smoky"], ["Did you mean 'smoke'?"]),
    (["smoke", "--trials", "0"], ["--trials must be 1 or more, but got 0."]),
    (["smoke", "--replicates", "0"], ["--replicates must be 1 or more, but got 0."]),
    (["smoke", "--trials", "many"], ["--trials"]),
    (["smoke", "--trails", "3"], ["No such option: --trails", "--trials"]),
    (["smoke", "--set", "iteration=3"], ["--set knows no key 'iteration'. Did you mean 'iterations'?"]),
    (["smoke", "--set", "iterations=few"], ["protocol.iterations= takes a value like 24, but got 'few'."]),
    (["smoke", "--set", "iterations"], ["--set takes key=value, but got 'iterations'"]),
    (["smoke", "--dataset", "phantom-lesions"], ["There is no data set", "Did you mean 'phantoms-lesions'?"]),
    (["smoke", "--dataset", "missing.parquet"], ["missing.parquet"]),
    (["smoke", "--dataset", "DATA", "--set", "data.fold=5"], ["data.fold must name one of the 1 folds"]),
    (["smoke", "--dataset", "DATA", "--set", "folds=0,5"], ["replicates.folds must lie in 0 .. 0"]),
    (["smoke", "--dataset", "TRUNCATED"], ["truncated.parquet"]),
    (["smoke", "--dataset", "TEXT"], ["text.parquet"]),
    ([], ["Missing argument"]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "parts"), STUDY_MISTAKES)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_mistake_is_one_sentence_and_leaves_no_study(call, home, parquet, tmp_path, command, words, parts):
    files = {"DATA": parquet, "TRUNCATED": tmp_path / "truncated.parquet", "TEXT": tmp_path / "text.parquet"}
    files["TRUNCATED"].write_bytes(parquet.read_bytes()[:2000])
    files["TEXT"].write_text("this is no Parquet file\n" * 100)
    words = [str(files.get(w, w)) for w in words]
    check_mistake(call(*words, program="run") if command == "run" else call("plan", *words), *parts)
    assert not (home / "smoke").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run", "smoke", "--cpus-per-trial", "0"], ["--cpus-per-trial must be above 0"]),
        (["run", "smoke", "--gpus-per-trial", "1.5"], ["--gpus-per-trial must be a share up to 1"]),
        (["plan", "smoke", "--gpus-per-trial", "-1"], ["a whole number or 'auto', but got '-1'."]),
        (["run", "smoke", "--gpus-per-trial", "nan"], ["or 'auto', but got 'nan'."]),
        (["run", "smoke", "--gpus-per-trial", "inf"], ["or 'auto', but got 'inf'."]),
        (["run", "smoke", "--gpus-per-trial", "many"], ["or 'auto', but got 'many'."]),
        (["run", "smoke", "--max-concurrent", "0"], ["--max-concurrent must be 1 or more"]),
        (["run", "smoke", "--trial-timeout", "0"], ["--trial-timeout must be more than 0 seconds"]),
        (["run", "smoke", "--fork", "../x"], ["--fork takes a name of letters"]),
        (["report", "smoke"], ["No study 'smoke' was started in", "python -m study.run smoke"]),
        (["status", "smoke"], ["No study 'smoke' was started in"]),
        (["extend", "smoke", "--trials", "5"], ["No study 'smoke' was started in"]),
        (["describe", "partial_cross_entropi"], ["Did you mean 'partial_cross_entropy'?"]),
        (["show", "smok"], ["Did you mean 'smoke'?"]),
        (["show", "smoke", "--set", "x=1"], ["--set knows no key 'x'."]),
        (["stauts", "smoke"], ["No such command 'stauts'."]),
        (["status", "smoke", "--format", "yaml"], ["--format"]),
    ],
)
def test_other_commands_say_what_is_wrong_too(call, home, words, parts):
    check_mistake(call(*words), *parts)
    assert Home(home).studies() == []


def test_a_home_below_a_file_is_refused(call, tmp_path, parquet):
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "runs"
    words = ("smoke", "--dataset", parquet, "--home", below)
    check_mistake(call(*words, program="run"), f"The home folder {below} must be writable, but: ")
    check_mistake(call("plan", *words), "with --home (STUDY_HOME)")


def test_extending_needs_a_target(call, home):
    Home(home).study("toy").freeze(a_study())
    check_mistake(call("extend", "toy"), "Extending toy needs --trials or --replicates: the new totals.")


def test_the_list(call, home):
    Home(home).study("smoke").freeze(a_study())
    Home(home).study("my_fork").freeze(a_study())
    result = call("list")
    assert (result.code, result.stderr) == (0, "")
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.split()}
    assert rows["study"] == ["study", "arms", "question", "started"]
    assert rows["smoke"][1] == "2"
    assert rows["smoke"][-1] == rows["my_fork"][-1] == "yes"
    assert "yes" not in rows["ablation_pixels"]
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_study_is_shown_with_its_keys(call):
    result = call("show", "smoke", "--set", "iterations=7")
    assert result.code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "Does everything from the data to the answer work on this machine?"
    assert "statistic + 5 pixels" in lines
    assert "  annotation  pixels fg_points; pixel_budget 5; statistics area" in lines
    assert "  searched    statistic_weight in 0.1 .. 100 (log)" in lines
    assert "  --set protocol.iterations=7" in lines
    assert "  --set replicates.seeds=1001,1002" in lines
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("method", ["summary_statistics", "partial_cross_entropy", "full_supervision"])
def test_a_method_is_described(call, method):
    result = call("describe", method)
    assert (result.code, result.stderr) == (0, "")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "hyper-parameter" in result.stdout
    assert "Needs: " in result.stdout
    if method == "summary_statistics":
        row = next(line for line in result.stdout.splitlines() if line.startswith("reconstruction_weight"))
        assert row.split()[1:6] == ["1.0", "0.01", "..", "10", "(log)"]
        assert any(line.startswith("  * gated: ") for line in result.stdout.splitlines())


TINY = ("--set", "network.levels=2", "--set", "network.width=4", "--set", "batch_size=2")


@pytest.mark.parametrize("form", ["json", "markdown", "table"])
def test_a_plan_in_three_forms(call, home, parquet, form):
    result = call("plan", "smoke", "--dataset", parquet, "--format", form, "--trials", "3", *TINY)
    assert (result.code, result.stderr) == (0, "")
    if form == "json":
        made = json.loads(result.stdout)
        assert (made["study"], made["trials"], made["rungs"]) == ("smoke", 2 * (3 + 2), [12])
        assert [arm["search_trials"] for arm in made["arms"]] == [3, 3]
        assert all(arm["seconds_per_iteration"] > 0 for arm in made["arms"])
    else:
        assert "smoke: 10 trials, " in result.stdout
        assert "stop early at iteration 12." in result.stdout
        assert "| full supervision | full_supervision | gp |" in result.stdout or form == "table"
    assert Home(home).studies() == []


@pytest.mark.parametrize("form", ["json", "markdown", "table"])
def test_status_and_report_of_a_study_that_has_begun(call, home, form):
    folder = Home(home).study("toy")
    folder.freeze(a_study())
    World(folder.ledger).board(a_study()).suggest()
    result = call("status", "toy", "--format", form)
    assert (result.code, result.stderr) == (0, "")
    assert "toy" in result.stdout or form == "markdown"
    if form == "json":
        assert json.loads(result.stdout)["running"] == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    result = call("report", "toy", "--format", form)
    page = folder.path / "report" / "report.html"
    assert (result.code, result.stderr) == (1, f"Report: {page}\n" if form == "table" else "")
    assert page.exists() == (form == "table")
    assert "statistic" in result.stdout


COMMANDS = (
    "list",
    "show",
    "describe",
    "plan",
    "run",
    "extend",
    "submit",
    "logs",
    "stop",
    "status",
    "report",
    "data",
)


def test_help_names_the_commands_the_exit_codes_and_the_environment(call):
    result = call("--help")
    assert (result.code, result.stderr) == (0, "")
    words = " ".join(result.stdout.split())
    assert cli.EXIT_CODES in words
    assert cli.ENVIRONMENT in words
    lines = [line.split() for line in result.stdout.splitlines() if line.split()]
    assert [line[0] for line in lines if line[0] in COMMANDS] == list(COMMANDS)
    assert "..." not in result.stdout.split("Commands:")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_its_environment(call, command):
    result = call(command, "--help")
    assert (result.code, result.stderr) == (0, "")
    assert max(map(len, result.stdout.splitlines())) <= 80
    words = " ".join(result.stdout.split())
    assert ("env var: STUDY_HOME" in words) is (command not in ("show", "describe", "data"))
    for variable in ("STUDY_DATASET", "RAY_ADDRESS", "MLFLOW_TRACKING_URI", "STUDY_OPTUNA_STORAGE"):
        assert (variable in words) or command != "run"


def test_study_run_is_a_program_of_its_own(call):
    result = call("--help", program="run")
    assert result.code == 0
    assert result.stdout.startswith("Usage: python -m study.run [OPTIONS] ")
    assert cli.EXIT_CODES in " ".join(result.stdout.split())


def test_the_modules_run():
    """The two entry points themselves, once each."""
    expected = {
        ("study", "show", "smok"): (2, "", "There is no study 'smok'. Did you mean 'smoke'?"),
        ("study.run", "--help"): (0, "Usage: python -m study.run [OPTIONS] ", ""),
    }
    for words, (code, out, sentence) in expected.items():
        command = [sys.executable, "-m", *words]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=50)
        assert (ended.returncode, ended.stderr.count("\n")) == (code, code // 2)
        assert ended.stdout.startswith(out)
        assert ended.stderr.startswith(sentence)
