"""Studies whose driver runs on a Ray cluster: submitted, followed and stopped through Ray's Jobs API.

A job has the study's name, so the same words find it again. What the study is and gave lies in the home,
which all machines share; a file there says which cluster's dashboard knows the job. Ray is imported here
because its client knows how the cluster authenticates.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import shlex
import socket
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from search_spaces import UserError
from study import masking
from study.home import StudyFolder

RECORD = "submitted.json"

ANSWER_WITHIN = 5.0
"""Seconds that a dashboard has to accept a connection."""

TIME_TO_STOP = 90
"""Seconds between SIGTERM and SIGKILL; the driver needs some for MLflow. Ray's default is 3."""

START_WITHIN = 60.0
"""Seconds that `submit` watches the start for an early end; afterwards `status` tells."""

_OVER = ("STOPPED", "SUCCEEDED", "FAILED")
_BLIND = "the head node does not see the folder"
_POLL = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Submission:
    """What is remembered of a submitted study."""

    address: str
    """Of the dashboard."""
    token: str
    """Only who sees this very folder knows it."""


def submit(folder: StudyFolder, address: str, words: Sequence[str]) -> str:
    """Starts `python -m study.run NAME WORDS` on the cluster's head node; says how to go on.

    Raises UserError: no dashboard there, the study runs already, the head node does not see the home.
    """
    name = folder.path.name
    client = _client(address)
    _make_room(client, folder, address)
    folder.path.mkdir(parents=True, exist_ok=True)
    submission = Submission(address, uuid.uuid4().hex)
    _remember(folder, submission)
    command = ["python", "-m", "study.run", *words]
    with _spoken(address):
        client.submit_job(
            entrypoint=_entrypoint(folder, submission, command),
            submission_id=name,
            runtime_env={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(TIME_TO_STOP)}},
            metadata={"study": name, "home": str(folder.path.parent)},
        )
        job = _after_start(client, name)
    if job.status == "FAILED" and _last_line(client, name) == _BLIND:
        raise UserError(
            f"A home must be seen by the whole cluster, but {_BLIND} {folder.path.parent}; name one on a "
            "file system that the cluster's machines share with --home (STUDY_HOME)."
        )
    return _sentence(client, name, address, job)


def state(folder: StudyFolder) -> str | None:
    """A sentence on the submitted job of a study; a trouble, too; None when never submitted."""
    try:
        submission = _remembered(folder)
        if submission is None:
            return None
        name, address = folder.path.name, submission.address
        client = _client(address)
        with _spoken(address):
            return _sentence(client, name, address, _job(client, name))
    except UserError as error:
        return str(error)


def address_of(folder: StudyFolder) -> str:
    """The dashboard of the cluster that a study was submitted to; "" when it was not."""
    with contextlib.suppress(UserError):
        submission = _remembered(folder)
        return "" if submission is None else submission.address
    return ""


def logs(folder: StudyFolder, write: Callable[[str], object], *, follow: bool) -> None:
    """What the driver printed so far; with `follow`, until it ends. Raises UserError."""
    client, submission = _submitted(folder)
    name = folder.path.name
    with _spoken(submission.address):
        _job(client, name)
        if not follow:
            write(client.get_job_logs(name))
            return

        async def tail() -> None:
            async for part in client.tail_job_logs(name):
                write(part)

        asyncio.run(tail())


def stop(folder: StudyFolder) -> str:
    """SIGTERM to the driver, and time to write down what it has; says how to continue. Raises UserError."""
    client, submission = _submitted(folder)
    name = folder.path.name
    with _spoken(submission.address):
        job = _job(client, name)
        if job.status in _OVER:
            raise UserError(
                f"Study {name!r} must run on the cluster at {submission.address} to be stopped, but its job "
                f"has {_words(job)}; `python -m study submit {name}` continues it."
            )
        client.stop_job(name)
        end = time.monotonic() + TIME_TO_STOP + ANSWER_WITHIN
        while (job := _job(client, name)).status not in _OVER and time.monotonic() < end:
            time.sleep(_POLL)
    if job.status not in _OVER:
        raise RuntimeError(f"Job {name!r} goes on {TIME_TO_STOP} s after it was told to stop.")
    return f"Job {name!r} has {_words(job)}. Everything finished is kept; the same submit continues."


def check_address(address: str) -> str:
    """The dashboard's address without a closing slash. Raises UserError."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            "--address must be that of the dashboard of Ray's head node, http://HEAD:8265, but got "
            f"{address!r}; `run` takes HEAD:6379."
        )
    return address.rstrip("/")


def check_secrets(uris: Mapping[str, object]) -> None:
    """A job's command is shown to everybody who sees the dashboard. Raises UserError for a password in it.

    An address with `?options` counts as one with a password, as libpq takes passwords there too.
    """
    for option, variable in masking.OPTIONS.items():
        if masking.holds_secret(str(uris.get(option) or "")):
            raise UserError(
                f"{option} of a submitted study must hold no password and no options, which Ray's dashboard "
                f"would show; set {variable} on the head node before `ray start` and leave it out here."
            )


# -- the file in the home ------------------------------------------------------------------------------------


def _remember(folder: StudyFolder, submission: Submission) -> None:
    temporary = folder.path / f".{RECORD}.{os.getpid()}"
    temporary.write_text(json.dumps(dataclasses.asdict(submission)))
    temporary.replace(folder.path / RECORD)


def _remembered(folder: StudyFolder) -> Submission | None:
    path = folder.path / RECORD
    if not path.exists():
        return None
    try:
        return Submission(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} must say where the study was submitted, but it is damaged; remove it and submit again."
        ) from error


def _submitted(folder: StudyFolder) -> tuple[Any, Submission]:
    submission = _remembered(folder)
    if submission is None:
        name = folder.path.name
        raise UserError(
            f"Study {name!r} must have been submitted with the home {folder.path.parent}, but it was not; "
            f"use `python -m study submit {name} --address http://HEAD:8265`, or name another --home."
        )
    return _client(submission.address), submission


# -- the cluster ---------------------------------------------------------------------------------------------


def _client(address: str) -> Any:
    """Ray's own client. Raises UserError when no dashboard answers."""
    parts = urllib.parse.urlsplit(check_address(address))
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with _spoken(address):
        # First, because Ray's client would wait minutes for a machine that is switched off.
        socket.create_connection((str(parts.hostname), port), timeout=ANSWER_WITHIN).close()
        from ray.job_submission import JobSubmissionClient

        logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)  # how the socket closed
        with _environment_aside():
            return JobSubmissionClient(address)


@contextlib.contextmanager
def _environment_aside() -> Iterator[None]:
    """Ray prefers addresses of the environment to the one that it is given."""
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


@contextlib.contextmanager
def _spoken(address: str) -> Iterator[None]:
    """What Ray's client raises becomes a UserError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"The dashboard of a Ray cluster must answer at {address}, but: {reason}; start its head node "
            "with `ray start --head`, check --address and that RAY_AUTH_MODE is the same everywhere."
        ) from error


def _job(client: Any, name: str) -> Any:
    """Raises UserError when the cluster does not know it."""
    found = _find(client, name)
    if found is None:
        raise UserError(
            f"The Ray cluster must know a job {name!r}, but it has none, perhaps because it was started "
            f"anew; `python -m study submit {name}` continues the study."
        )
    return found


def _find(client: Any, name: str) -> Any | None:
    return next((job for job in client.list_jobs() if job.submission_id == name), None)


def _make_room(client: Any, folder: StudyFolder, address: str) -> None:
    """Forgets an ended job of the name. Raises UserError for one that lives, and for a driver elsewhere."""
    name = folder.path.name
    with _spoken(address):
        old = _find(client, name)
        if old is not None and old.status not in _OVER:
            home = (old.metadata or {}).get("home")
            raise UserError(
                f"Study {name!r} runs already on the cluster at {address} (home {home}); follow it with "
                f"`python -m study logs {name} -f`, stop it, or run another beside it with --fork NAME."
            )
        if folder.is_running():
            raise UserError(
                f"Study {name!r} is being run by a driver that was not submitted to {address}; wait for it, "
                "stop it, or use another --home."
            )
        if old is not None:
            client.delete_job(name)


def _entrypoint(folder: StudyFolder, submission: Submission, command: Sequence[str]) -> str:
    """Looks for the home first: a driver that does not see it would make an empty one."""
    record = shlex.quote(str(folder.path / RECORD))
    seen = f"grep -qs {submission.token} {record}"
    return f"{seen} || {{ echo {shlex.quote(_BLIND)}; exit 2; }}; exec {shlex.join(command)}"


def _after_start(client: Any, name: str) -> Any:
    """The job once it runs and has had a moment to fail, or as it is after START_WITHIN seconds."""
    end = time.monotonic() + START_WITHIN
    while (job := _job(client, name)).status == "PENDING" and time.monotonic() < end:
        time.sleep(_POLL)
    if job.status == "RUNNING":
        time.sleep(4 * _POLL)
        job = _job(client, name)
    return job


def _last_line(client: Any, name: str) -> str:
    lines = [line for line in client.get_job_logs(name).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _words(job: Any) -> str:
    return {"STOPPED": "stopped", "SUCCEEDED": "answered", "FAILED": "ended without an answer"}[job.status]


def _sentence(client: Any, name: str, address: str, job: Any) -> str:
    where = f"Job {name!r} at {address}"
    if job.status not in _OVER:
        runs = "waits to start" if job.status == "PENDING" else "runs"
        return f"{where} {runs}; follow it with `python -m study logs {name} -f`."
    if job.status != "FAILED":
        return f"{where} has {_words(job)}."
    return f"{where} has {_words(job)}: {_last_line(client, name) or job.message}"
