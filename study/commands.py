"""What the commands that start or cost something do; imported only when one of them is given."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search_spaces import UserError
from study import datasets, discovery, engine, jobs, names, overrides, plan, roof, service, targets
from study.capacity import Capacity
from study.engine import Machine, available_cores
from study.eta import duration
from study.home import Home, agree
from study.spec import Study

AUTO = "auto"
"""--gpus-per-trial: measured, not given."""


def definition(
    name: str,
    dataset: str | None,
    trials: int | None,
    replicates: int | None,
    settings: list[str],
    home: str,
    *,
    fork: str | None,
) -> Study:
    """The study that the command line describes. Raises UserError."""
    study = discovery.load(name)
    if fork is not None:
        study = dataclasses.replace(study, name=_fork_name(fork))
    study = targets.remembered(study, Home.at(home).study(study.name))
    study = overrides.apply(study, settings)
    named = datasets.absolute(study.data.dataset if dataset is None else dataset)
    study = dataclasses.replace(study, data=dataclasses.replace(study.data, dataset=named))
    return targets.asked_for(study, trials=trials, replicates=replicates)


def _fork_name(name: str) -> str:
    if not names.is_study(name):
        raise UserError(f"--fork takes a name of {names.RULE}, but got {name!r:.120}.")
    return name


def extended(name: str, trials: int | None, replicates: int | None, home: str) -> Study:
    """A started study with larger targets. Raises UserError."""
    folder = Home.at(home).existing(name)
    frozen = folder.frozen()
    assert frozen is not None
    return targets.extended(frozen, trials=trials, replicates=replicates)


def machine(
    address: str | None,
    cpus: float,
    gpus: str | None,
    max_concurrent: int | None,
    dashboard: bool,
    trial_timeout: float | None = None,
) -> Machine:
    """What a trial takes. Raises UserError for shares that no machine can give."""
    if trial_timeout is not None and not trial_timeout > 0:
        raise UserError(
            f"--trial-timeout must be more than 0 seconds, but got {trial_timeout:g}; leave it out."
        )
    if cpus <= 0:
        raise UserError(f"--cpus-per-trial must be above 0, but got {cpus:g}.")
    if max_concurrent is not None and max_concurrent < 1:
        raise UserError(f"--max-concurrent must be 1 or more, but got {max_concurrent}.")
    return Machine(
        address=address,
        cpus_per_trial=cpus,
        gpus_per_trial=None if gpus in (None, AUTO) else _gpus(gpus),
        measure_gpus=gpus == AUTO,
        max_concurrent=max_concurrent,
        dashboard=dashboard,
        trial_timeout=trial_timeout,
    )


def _gpus(text: str) -> float:
    try:
        gpus = float(text)
    except ValueError:
        gpus = math.nan
    if not (0 <= gpus <= 1 or (gpus > 1 and gpus.is_integer())):
        raise UserError(
            f"--gpus-per-trial must be a share up to 1, a whole number or {AUTO!r}, but got {text!r:.60}."
        )
    return gpus


def run(
    study: Study,
    home: str,
    where: Machine,
    out: Console,
    tracking_uri: str | None,
    storage_url: str | None,
    storage_path: str | None,
) -> int:
    """Runs the study; 0 when every arm has its replicates, else 1."""
    prepared = service.prepare(study, Home.at(home), storage_path)
    # Bound to the stream that is there now: while Ray runs, sys.stdout is its log file.
    screen = Console(file=sys.stdout, highlight=False, width=out.width)
    try:
        answer = service.run(prepared, where, screen, tracking_uri=tracking_uri, storage_url=storage_url)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Everything finished is kept; the same command continues.\n")
        return 1
    roof.Report(prepared.folder, answer).publish()
    return 0 if answer.complete else 1


def submit(study: Study, name: str, home: str, address: str, options: Mapping[str, object]) -> str:
    """Starts the driver of a study on a cluster. Raises UserError, also for what its driver would refuse."""
    folder = Home.at(home).study(study.name)
    jobs.check_address(address)
    jobs.check_secrets(options)
    frozen = folder.frozen()
    if frozen is not None:
        agree(frozen, study)
    Home.at(home).check_writable()
    words = [name, "--home", str(folder.path.parent)]
    for option, value in options.items():
        given = value if isinstance(value, list) else [] if value is None else [value]
        words += [f"{option}={one}" for one in given]
    return jobs.submit(folder, address, words)


def show_plan(
    study: Study,
    home: str,
    cpus: float,
    gpus: str | None,
    max_concurrent: int | None,
    format_: str,
    out: Console,
    storage_path: str | None = None,
) -> None:
    """Prints the plan with speeds that are measured here and now."""
    where = machine(None, cpus, gpus, max_concurrent, False)
    prepared = service.prepare(study, Home.at(home), storage_path)
    slots, sharing = max(1, int(available_cores() / where.cpus_per_trial)), ""
    slots = min(slots, where.max_concurrent or slots)
    if gpus is not None:
        where, slots, sharing = _at_once_here(prepared, where)
    speed = plan.measure(study, prepared.dataset, prepared.data, threads=where.threads)
    made = prepared.plan(slots=slots, speed=speed, gpus=where.gpus_per_trial or 0.0, sharing=sharing)
    if format_ == "json":
        typer.echo(json.dumps({**dataclasses.asdict(made), "trials": made.trials}, indent=2))
    elif format_ == "markdown":
        typer.echo(_markdown(made))
    else:
        out.print(_table(made))
        out.print(Text(_summary(made)), soft_wrap=True)


def _at_once_here(prepared: service.Prepared, where: Machine) -> tuple[Machine, int, str]:
    """What a run on this machine would do: the share of a GPU, trials at once, and why."""
    try:
        where, slots = engine.connect(where)
        if not where.measure_gpus:
            return where, slots.here, ""
        where, reason = service.share_gpus(prepared, where)
        return where, Capacity(where).here, reason
    finally:
        engine.disconnect()


_HEADERS = ("arm", "method", "sampler", "searched", "search", "confirm", "s/iteration", "annotator")


def _rows(made: plan.Plan) -> list[list[str]]:
    return [
        [
            arm.name, arm.method, arm.sampler, ", ".join(arm.searched) or "-",
            str(arm.search_trials), str(arm.confirm_trials), f"{arm.seconds_per_iteration or 0:.3f}",
            duration(arm.annotation_seconds),
        ]
        for arm in made.arms
    ]  # fmt: skip


def _table(made: plan.Plan) -> Table:
    table = Table(box=None)
    for header in _HEADERS:
        table.add_column(header)
    for row in _rows(made):
        table.add_row(*(Text(cell) for cell in row))
    return table


def _markdown(made: plan.Plan) -> str:
    lines = [_HEADERS, ["---"] * len(_HEADERS), *_rows(made)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_summary(made)}"


def _summary(made: plan.Plan) -> str:
    wall = made.wall_seconds
    span = "" if wall is None else " to ".join(dict.fromkeys(map(duration, wall)))
    each = f" with {made.gpus_per_trial:g} GPU each" if made.gpus_per_trial else ""
    time = "" if wall is None else f", {span} on {made.concurrency} at once{each}"
    rungs = ", ".join(map(str, made.rungs))
    searches = any(arm.search_trials > 1 for arm in made.arms)
    stops = f"; trials may stop early at iteration {rungs}" if rungs and searches else ""
    shared = f" after {made.pretrainings} shared pre-trainings" if made.pretrainings else ""
    sharing = f" {made.sharing}" if made.sharing else ""
    search = f" Search: {made.search}" if made.search else ""
    return f"{made.study}: {made.trials} trials{shared}{time}{stops}.{sharing}{search}"
