"""`study ui`: MLflow's UI and optuna-dashboard on loopback, on the databases of a study, until Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
import types
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from search_spaces import UserError
from study import addresses, jobs, live, pages
from study.home import SPEC, Home, StudyFolder
from study.masking import HIDDEN, OPTIONS, holds_secret, masked
from study.mlflow_runs import DATABASE
from study.pages import HOST, Page

MLFLOW_PORT, OPTUNA_PORT = 5000, 8080
MLFLOW, OPTUNA = "MLflow", "optuna-dashboard"
SERVED = ("http://", "https://")
_VIEW = "workflowType=machine_learning"
"""Without it MLflow 3 shows a newcomer its pages about language models."""

Say = Callable[[str], object]


def serve(
    home: Home,
    name: str | None,
    say: Say,
    *,
    port: int | None = None,
    tracking_uri: str | None = None,
    optuna_url: str | None = None,
) -> None:
    """Serves until Ctrl-C or SIGTERM. Raises UserError: no study, no database, a port that is taken.

    optuna-dashboard shows the study that is named, all its arms, on that study's own database: a running
    search moves in it, and nothing is copied or merged.
    """
    folder = chosen(home, name)
    kept = addresses.remembered(folder.path)
    tracking = _with_password(tracking_uri or kept.tracking, "--tracking-uri")
    with tempfile.TemporaryDirectory(prefix="study-ui-") as scratch:
        shown = []
        if not tracking.startswith(SERVED):
            shown.append(_mlflow(home, tracking, _port(port, MLFLOW_PORT, MLFLOW, say), Path(scratch)))
        if importlib.util.find_spec("optuna_dashboard") is not None:
            url = _with_password(optuna_url or kept.optuna, "--optuna-storage")
            shown.append(_optuna(folder, url, _port(None, OPTUNA_PORT, OPTUNA, say), Path(scratch)))
        with _until_told(), pages.started(shown):
            for line in _lines(home, folder, tracking, shown):
                say(line)
            while all(page.runs() for page in shown):
                time.sleep(0.5)
            raise UserError(next(page for page in shown if not page.runs()).complaint())


def chosen(home: Home, name: str | None) -> StudyFolder:
    """The study that is named; else one that runs, else the one that was started last. Raises UserError."""
    if name is not None:
        return home.existing(name)
    folders = [home.study(one) for one in home.studies()]
    if not folders:
        raise UserError(
            f"No study was started in {home.path}, so there is nothing to show; start one with "
            "`python -m study.run smoke` or name another --home (STUDY_HOME)."
        )
    return max(folders, key=lambda one: (one.is_running(), (one.path / SPEC).stat().st_mtime))


def _with_password(address: str, option: str) -> str:
    """Raises UserError for an address of which only what may be shown was kept."""
    if HIDDEN in address:
        raise UserError(
            f"The study was kept at {address}, whose password is written nowhere; give the whole address in "
            f"{OPTIONS[option]}."
        )
    return address


def _port(asked: int | None, usual: int, name: str, say: Say) -> int:
    """The port that was asked for, or the usual one, or a free one. Raises UserError."""
    if asked is not None and not 1 <= asked <= 65535:
        raise UserError(f"--port must be 1 to 65535, but got {asked}.")
    if asked is not None and not pages.is_free(asked):
        raise UserError(
            f"--port must be free, but somebody listens on {asked}; leave it out to get a free one."
        )
    if asked is not None or pages.is_free(usual):
        return asked or usual
    port = pages.free_port()
    say(f"Port {usual} is taken: {name} uses {port}.")
    return port


def _mlflow(home: Home, tracking: str, port: int, scratch: Path) -> Page:
    """Raises UserError where the home has no runs."""
    database = home.path / DATABASE
    if not tracking and not database.exists():
        raise UserError(
            f"MLflow's database {database} must be there, but is not: the studies were tracked elsewhere; "
            "name that address with --tracking-uri (MLFLOW_TRACKING_URI)."
        )
    names = (f"{HOST}:{port}", f"localhost:{port}")
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1",
        "--artifacts-destination", str(home.path / "mlartifacts"),
        "--allowed-hosts", ",".join(names),
        "--cors-allowed-origins", ",".join(f"http://{name}" for name in names),
    ]  # fmt: skip
    address = tracking or f"sqlite:///{database}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")} | {
        "MLFLOW_BACKEND_STORE_URI": address,  # not on the command line, which every user can read
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes for nothing that is used here
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return Page(
        name=MLFLOW, port=port, command=command, environment=environment, folder=scratch, secrets=[address]
    )


def _optuna(folder: StudyFolder, url: str, port: int, scratch: Path) -> Page:
    """Raises UserError where the study has no search."""
    variable = OPTIONS["--optuna-storage"]
    environment = {name: value for name, value in os.environ.items() if name != variable}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return Page(
        name=OPTUNA,
        port=port,
        command=[sys.executable, "-m", "study.optuna_ui", str(folder.path), str(port)],
        environment={**environment, **({variable: url} if url else {})},
        folder=scratch,
        secrets=[url],
    )


def _lines(home: Home, folder: StudyFolder, tracking: str, shown: Sequence[Page]) -> Iterator[str]:
    """What serves what, and who can reach it."""
    name = folder.path.name
    for page in shown:
        what = (
            "all studies of the home"
            if page.name == MLFLOW
            else f"the search of {name}, an Optuna study an arm"
        )
        yield f"{page.name}: {page.url}  {what}"
        if page.name == MLFLOW:
            yield from _experiment(page, name)
    if tracking.startswith(SERVED):
        yield f"{MLFLOW}: {masked(tracking) if holds_secret(tracking) else tracking}  a server of its own"
    if all(page.name != OPTUNA for page in shown):
        yield f"{OPTUNA} is not installed: `pip install '.[ui]'` adds it."
    elif others := [one for one in home.studies() if one != name]:
        yield f"Another study's search: `python -m study ui {others[0]}` ({', '.join(others)})."
    yield from _ray(home)
    ports = " ".join(f"-L {page.port}:{HOST}:{page.port}" for page in shown)
    yield (
        f"Reached from this machine only, by all its users, without a password; from another one: "
        f"ssh {ports} THIS-MACHINE. Ctrl-C ends it."
    )


def _experiment(page: Page, name: str) -> Iterator[str]:
    """The page of the study itself."""
    query = urllib.parse.urlencode({"experiment_name": name})
    with contextlib.suppress(OSError, ValueError, KeyError):  # it has none: tracked elsewhere, or deleted
        with urllib.request.urlopen(
            f"{page.url}/api/2.0/mlflow/experiments/get-by-name?{query}", timeout=10
        ) as reply:
            found = json.load(reply)["experiment"]["experiment_id"]
        yield f"  {name}: {page.url}/#/experiments/{found}/runs?{_VIEW}"


def _ray(home: Home) -> Iterator[str]:
    """Ray's dashboard of every study that runs."""
    for name in home.studies():
        folder = home.study(name)
        if folder.is_running():
            told = live.read(folder.path)
            address = (told.dashboard if told is not None else "") or jobs.address_of(folder)
            way = f"`python -m study run {name} --dashboard` starts it"
            yield f"Ray's dashboard of {name}: {address or f'none; {way}'}"


@contextlib.contextmanager
def _until_told() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal leave the block quietly; a second one changes nothing."""
    told = False

    def stop(number: int, frame: types.FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            raise KeyboardInterrupt

    before = {
        number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
