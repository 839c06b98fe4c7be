"""slurm.sh with stand-ins for Slurm, Ray and Python on PATH, which write down how they were called."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.infra.command_lines import check
from tests.infra.files import INFRA

SCRIPT = INFRA / "slurm.sh"
JOB = "4242"
PORT = 20000 + 4242 % 1200 * 10

STAND_INS = {
    "scontrol": 'record "$@"; [ "$1" != show ] || printf "%s\\n" $NODES',
    # As srun: runs the words after its own options, and passes a TERM on to them.
    "srun": 'record "$@"; while [[ $1 == --* ]]; do shift; done; exec "$@"',
    # A node runs until it is told to stop; the head is healthy as soon as it was started.
    "ray": """
        trap 'echo "ended: ray $2" >> "$CALLS"; exit 0' TERM
        record "$@"
        if [ "$1" = start ]; then while :; do sleep 0.05; done; fi
        until grep -q '^ray start --head' "$CALLS"; do sleep 0.05; done
    """,
    "rm": "true",
    # Random words are really made; the nodes are there when their `ray start` was called; a study takes time.
    "python": """
        case "$2" in
            *secrets*) exec "$REAL_PYTHON" "$@" ;;
            *ray.nodes*)
                until [ $(grep -c '^ray start' "$CALLS") -ge $(($4 > 1 ? 2 : 1)) ]; do sleep 0.05; done
                exit 0 ;;
        esac
        trap 'echo "ended: study" >> "$CALLS"; exit 1' TERM
        record "$@"
        echo "token ${#RAY_AUTH_TOKEN} $RAY_AUTH_MODE home $STUDY_HOME" >> "$CALLS"
        for i in $(seq "$STUDY_TENTHS"); do sleep 0.1; done
        exit "$STUDY_CODE"
    """,
}


@dataclass
class Job:
    """The script as Slurm would run it on the first node of a job."""

    folder: Path
    nodes: str = "n1 n2 n3"

    def start(self, *words: str, tenths: int = 1, code: int = 0, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPT), *words],
            env={
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "CALLS": str(self.folder / "calls"),
                "REAL_PYTHON": sys.executable,
                "NODES": self.nodes,
                "SLURM_JOB_ID": JOB,
                "SLURM_JOB_NODELIST": "n[1-3]",
                "SLURM_CPUS_PER_TASK": "8",
                "SLURM_GPUS_ON_NODE": "2",
                "SLURM_SUBMIT_DIR": "/home/me/project",
                "STUDY_TENTHS": str(tenths),
                "STUDY_CODE": str(code),
                **environment,
            },
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, start: str) -> None:
        deadline = time.monotonic() + 30
        while not any(line.startswith(start) for line in self.calls()):
            assert time.monotonic() < deadline, self.calls()
            time.sleep(0.05)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    for name, body in STAND_INS.items():
        path = tmp_path / name
        path.write_text(f'#!/bin/bash\nrecord() {{ echo "{name} $*" >> "$CALLS"; }}\n{body}\n')
        path.chmod(0o755)
    return Job(tmp_path)


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=40)
    return process.returncode, stderr


def test_bash_reads_it() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("`shellcheck` is not installed")
    # SC2317: functions that only a trap calls.
    done = subprocess.run(
        ["shellcheck", "-e", "SC2317", str(SCRIPT)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_a_study_on_three_nodes(job: Job) -> None:
    assert finished(job.start("ablation_pixels", "--gpus-per-trial", "0.5")) == (0, "")
    calls = job.calls()
    started = [line.split() for line in calls if line.startswith("ray ")]
    assert all(check(line) for line in started)
    own = f"--num-cpus 8 --num-gpus 2 --temp-dir /tmp/ray-{JOB} --dashboard-agent-listen-port {PORT + 2}"
    assert [" ".join(line) for line in started if line[1] == "start"] == [
        f"ray start --head --block --port {PORT} --include-dashboard false "
        f"--ray-client-server-port {PORT + 1} {own}",
        f"ray start --address n1:{PORT} --block {own}",
    ]
    assert f"ray health-check --address n1:{PORT}" in calls
    placed = [
        line.partition(" ray ")[0] for line in calls if line.startswith("srun") and " ray start" in line
    ]
    assert placed == [
        "srun --overlap --nodes=1 --ntasks=1 --nodelist=n1",
        "srun --overlap --nodes=2 --ntasks=2 --exclude=n1",
    ]
    (study,) = [line.split() for line in calls if line.startswith("python -m")]
    assert check(study) == "python -m study run"
    assert study[3:] == ["run", "ablation_pixels", "--gpus-per-trial", "0.5", "--address", f"n1:{PORT}"]
    assert "token 64 token home /home/me/project/runs" in calls
    # Everything that was started is ended, on every node, and nothing is put back.
    assert calls.count("ended: ray --head") == calls.count("ended: ray --address") == 1
    assert f"srun --overlap --nodes=3 --ntasks=3 rm -rf /tmp/ray-{JOB}" in calls
    assert not any("requeue" in line for line in calls)


def test_one_node_has_no_others(job: Job) -> None:
    job.nodes = "n1"
    assert finished(job.start("smoke", STUDY_HOME="/data/runs")) == (0, "")
    assert sum(line.startswith("ray start") for line in job.calls()) == 1
    assert "token 64 token home /data/runs" in job.calls()


def test_the_studys_exit_code_is_the_jobs(job: Job) -> None:
    assert finished(job.start("smoke", code=2))[0] == 2
    assert not any("requeue" in line for line in job.calls())


def test_before_the_time_limit_it_is_put_back(job: Job) -> None:
    """The study hears TERM and ends by itself; only then Ray is ended, and last the job is put back."""
    process = job.start("smoke", tenths=600)
    job.wait_for("token")
    process.send_signal(signal.SIGUSR1)
    assert finished(process)[0] == 1
    calls = job.calls()
    assert calls.index("ended: study") < calls.index("ended: ray --head") < len(calls) - 1
    assert calls[-1] == f"scontrol requeue {JOB}"


def test_a_cancelled_job_is_not_put_back(job: Job) -> None:
    process = job.start("smoke", tenths=600)
    job.wait_for("token")
    process.send_signal(signal.SIGTERM)
    assert finished(process)[0] == 1
    assert "ended: study" in job.calls()
    assert "ended: ray --head" in job.calls()
    assert not any("requeue" in line for line in job.calls())


def test_a_study_that_ends_before_the_limit_is_not_put_back(job: Job) -> None:
    """The signal came, but the answer was quicker."""
    python = job.folder / "python"
    python.write_text(python.read_text().replace("exit 1", "exit 0"))
    process = job.start("smoke", tenths=600)
    job.wait_for("token")
    process.send_signal(signal.SIGUSR1)
    assert finished(process)[0] == 0
    assert not any("requeue" in line for line in job.calls())


def test_a_limit_while_ray_starts_is_put_back_too(job: Job) -> None:
    ray = job.folder / "ray"
    ray.write_text(ray.read_text().replace("until grep", "exit 1; until grep"))
    process = job.start("smoke")
    job.wait_for("ray health-check")
    process.send_signal(signal.SIGUSR1)
    assert finished(process)[0] == 143
    assert job.calls()[-1] == f"scontrol requeue {JOB}"
    assert not any(line.startswith("python -m") for line in job.calls())


@pytest.mark.parametrize(("words", "job_id", "said"), [([], JOB, "must be named"), (["smoke"], "", "sbatch")])
def test_mistakes_are_named(job: Job, words: list[str], job_id: str, said: str) -> None:
    code, stderr = finished(job.start(*words, SLURM_JOB_ID=job_id))
    assert code != 0
    assert said in stderr
    assert job.calls() == []


def test_slurm_is_told_to_warn_and_to_put_back() -> None:
    lines = SCRIPT.read_text().splitlines()
    directives = {line.split(maxsplit=1)[1] for line in lines if line.startswith("#SBATCH")}
    wanted = {"--requeue", "--signal=B:USR1@120", "--ntasks-per-node=1", "--open-mode=append"}
    assert wanted <= directives
