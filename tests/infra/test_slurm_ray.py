"""slurm.sh with Ray and a study as they are, on a job of one node; Slurm's own programs are stand-ins."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.infra.files import INFRA, ROOT
from tests.infra.test_servers import PROGRAMS
from tests.infra.test_slurm import STAND_INS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(280)]


def test_a_study_runs_to_its_answer_and_leaves_nothing(tmp_path: Path) -> None:
    for name in ("srun", "scontrol"):
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\nrecord() {{ :; }}\n{STAND_INS[name]}\n")
        path.chmod(0o755)
    job = os.getpid()
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "STUDY_"))}
    done = subprocess.run(
        ["bash", str(INFRA / "slurm.sh"), "smoke", "--set", "iterations=8"],
        env={
            **clean,
            "PATH": f"{tmp_path}:{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "NODES": socket.gethostname(),
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_NODELIST": socket.gethostname(),
            "SLURM_CPUS_PER_TASK": "2",
            "SLURM_GPUS_ON_NODE": "0",
            "SLURM_SUBMIT_DIR": str(tmp_path),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=260,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "runs" / "smoke" / "report" / "answer.json").exists()
    assert not Path(f"/tmp/ray-{job}").exists()
    left = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if _names(path, f"ray-{job}/")]
    assert left == []


def _names(path: Path, what: str) -> bool:
    try:
        return what.encode() in path.read_bytes()
    except OSError:  # it ended meanwhile
        return False
