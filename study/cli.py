"""The command line: `python -m study COMMAND` and `python -m study.run NAME`."""

from __future__ import annotations

import enum
import functools
import inspect
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search_spaces import UserError
from study.masking import keep_off_the_process_list

ANSWERED, NO_ANSWER, USERS_MISTAKE = 0, 1, 2
EXIT_CODES = (
    "Exit codes: 0 answered; 1 the study could not answer, an arm lacks its replicates (also after Ctrl-C); "
    "2 your mistake, or what your machine lacks (disk, memory, a node), named in one sentence on stderr."
)

out = Console(highlight=False)

_UsageError: Any = typer.BadParameter.__bases__[0]
"""What typer raises for a command line that it cannot read; its own module for it is private."""


class Format(enum.StrEnum):
    table = "table"
    json = "json"
    markdown = "markdown"


ENVIRONMENT = (
    "Environment: STUDY_HOME, STUDY_DATASET, RAY_ADDRESS, STUDY_CPUS_PER_TRIAL, STUDY_GPUS_PER_TRIAL, "
    "STUDY_MAX_CONCURRENT, MLFLOW_TRACKING_URI, STUDY_OPTUNA_STORAGE and STUDY_STORAGE_PATH stand for "
    "the options of those names."
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a study: `python -m study list`.")]
HomeOption = Annotated[str, typer.Option("--home", envvar="STUDY_HOME", help="Folder of all studies.")]
FormatOption = Annotated[Format, typer.Option("--format", help="json is stable, for scripts.")]
DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", envvar="STUDY_DATASET", help="Parquet file, or a name of `study data list`."),
]
TrialsOption = Annotated[
    int | None, typer.Option("--trials", help="Searched trials an arm: the total, not how many more.")
]
ReplicatesOption = Annotated[int | None, typer.Option("--replicates", help="Fresh seeds an arm: the total.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, repeatable; `study show NAME` lists the keys.")
]
ForkOption = Annotated[str | None, typer.Option("--fork", help="Run the changed definition under this name.")]
AddressOption = Annotated[
    str | None, typer.Option("--address", envvar="RAY_ADDRESS", help="Ray cluster; default: this machine.")
]
CpusOption = Annotated[
    float,
    typer.Option("--cpus-per-trial", envvar="STUDY_CPUS_PER_TRIAL", help="CPUs, and threads, of a trial."),
]
GpusOption = Annotated[
    str | None,
    typer.Option(
        "--gpus-per-trial",
        envvar="STUDY_GPUS_PER_TRIAL",
        metavar="NUMBER|auto",
        help="Fractions share a GPU; auto measures how many; default 1 if there is one.",
    ),
]
ConcurrentOption = Annotated[
    int | None,
    typer.Option("--max-concurrent", envvar="STUDY_MAX_CONCURRENT", help="Trials at once, at most."),
]
TimeoutOption = Annotated[
    float | None, typer.Option("--trial-timeout", help="Seconds after which a trial fails; none by default.")
]
TrackingOption = Annotated[
    str | None,
    typer.Option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow; default: SQLite in the home."),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--optuna-storage", envvar="STUDY_OPTUNA_STORAGE", help="Database URL; default: SQLite in the study."
    ),
]
PlaceOption = Annotated[
    str | None,
    typer.Option(
        "--storage-path",
        envvar="STUDY_STORAGE_PATH",
        help="Folder or s3://BUCKET/PREFIX of checkpoints and networks; default: the home.",
    ),
]

app = typer.Typer(
    help="Which weak supervision is enough, with which loss weights, and how sure are we?\n\n"
    f"{EXIT_CODES}\n\n{ENVIRONMENT}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


def _data_app() -> typer.Typer:
    from study.data_commands import data_app

    return data_app


app.add_typer(_data_app(), name="data")


@app.command("list")
def list_studies(home: HomeOption = "runs") -> None:
    """The studies, and which were started here."""
    from study import discovery
    from study.home import Home

    table = Table(box=None)
    for header in ("study", "arms", "question", "started"):
        table.add_column(header)
    started = Home.at(home).studies()
    for name in discovery.names():
        study = discovery.load(name)
        table.add_row(name, str(len(study.arms)), Text(study.question), "yes" if name in started else "")
    for name in sorted(set(started) - set(discovery.names())):
        table.add_row(name, "", "", "yes")
    out.print(table)


@app.command()
def show(name: Name, set_: SetOption = None) -> None:
    """A study's arms, and every key of --set.

    Example: python -m study show ablation_pixels
    """
    from study import cards, discovery, overrides

    for line in cards.study(overrides.apply(discovery.load(name), set_ or [])):
        out.print(line, soft_wrap=True)


@app.command()
def describe(method: Annotated[str, typer.Argument(metavar="METHOD", help="Name of a method.")]) -> None:
    """A method: loss, hyper-parameters, sources.

    Example: python -m study describe summary_statistics
    """
    from study import cards

    out.print(cards.method(method))


@app.command()
def plan(
    name: Name,
    dataset: DatasetOption = None,
    trials: TrialsOption = None,
    replicates: ReplicatesOption = None,
    set_: SetOption = None,
    home: HomeOption = "runs",
    cpus_per_trial: CpusOption = 1.0,
    gpus_per_trial: GpusOption = None,
    max_concurrent: ConcurrentOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """What a study costs here; starts nothing.

    Example: python -m study plan ablation_pixels --trials 20
    """
    from study import commands

    study = commands.definition(name, dataset, trials, replicates, set_ or [], home, fork=None)
    commands.show_plan(study, home, cpus_per_trial, gpus_per_trial, max_concurrent, format_.value, out)


@app.command()
def run(
    name: Name,
    dataset: DatasetOption = None,
    trials: TrialsOption = None,
    replicates: ReplicatesOption = None,
    set_: SetOption = None,
    home: HomeOption = "runs",
    fork: ForkOption = None,
    address: AddressOption = None,
    cpus_per_trial: CpusOption = 1.0,
    gpus_per_trial: GpusOption = None,
    max_concurrent: ConcurrentOption = None,
    trial_timeout: TimeoutOption = None,
    tracking_uri: TrackingOption = None,
    optuna_storage: StorageOption = None,
    storage_path: PlaceOption = None,
    dashboard: Annotated[bool, typer.Option(help="Start Ray's dashboard on loopback.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Run or continue a study to its answer.

    The same command again continues, after any end of the last one, and never trains a finished trial twice.

    \b
    Examples:
      python -m study.run ablation_pixels
      python -m study.run ablation_pixels --dataset my.parquet --trials 20
    """
    from study import commands

    study = commands.definition(name, dataset, trials, replicates, set_ or [], home, fork=fork)
    if dry_run:
        commands.show_plan(
            study, home, cpus_per_trial, gpus_per_trial, max_concurrent, "table", out, storage_path
        )
        return
    machine = commands.machine(
        address, cpus_per_trial, gpus_per_trial, max_concurrent, dashboard, trial_timeout
    )
    raise typer.Exit(commands.run(study, home, machine, out, tracking_uri, optuna_storage, storage_path))


@app.command()
def extend(
    name: Name,
    trials: TrialsOption = None,
    replicates: ReplicatesOption = None,
    home: HomeOption = "runs",
    address: AddressOption = None,
    cpus_per_trial: CpusOption = 1.0,
    gpus_per_trial: GpusOption = None,
    max_concurrent: ConcurrentOption = None,
    trial_timeout: TimeoutOption = None,
    tracking_uri: TrackingOption = None,
    optuna_storage: StorageOption = None,
    storage_path: PlaceOption = None,
) -> None:
    """More trials or replicates for a study.

    The totals are given, not the differences; the study must have been started.

    Example: python -m study extend ablation_pixels --trials 50 --replicates 5
    """
    from study import commands

    study = commands.extended(name, trials, replicates, home)
    machine = commands.machine(address, cpus_per_trial, gpus_per_trial, max_concurrent, False, trial_timeout)
    raise typer.Exit(commands.run(study, home, machine, out, tracking_uri, optuna_storage, storage_path))


@app.command()
def submit(
    name: Name,
    address: Annotated[
        str,
        typer.Option(
            "--address", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard: http://HEAD:8265."
        ),
    ],
    dataset: DatasetOption = None,
    trials: TrialsOption = None,
    replicates: ReplicatesOption = None,
    set_: SetOption = None,
    home: HomeOption = "runs",
    fork: ForkOption = None,
    cpus_per_trial: CpusOption = 1.0,
    gpus_per_trial: GpusOption = None,
    max_concurrent: ConcurrentOption = None,
    trial_timeout: TimeoutOption = None,
    tracking_uri: TrackingOption = None,
    optuna_storage: StorageOption = None,
    storage_path: PlaceOption = None,
) -> None:
    """Run or continue a study on a Ray cluster, without this machine.

    The home must be a folder that all machines of the cluster share. The same command again continues.

    Example: python -m study submit ablation_pixels --address http://HEAD:8265 --home /shared/runs
    """
    from study import commands

    study = commands.definition(name, dataset, trials, replicates, set_ or [], home, fork=fork)
    commands.machine(None, cpus_per_trial, gpus_per_trial, max_concurrent, False, trial_timeout)
    options = {
        "--dataset": None if dataset is None else study.data.dataset,
        "--trials": trials,
        "--replicates": replicates,
        "--set": set_,
        "--fork": fork,
        "--cpus-per-trial": cpus_per_trial,
        "--gpus-per-trial": gpus_per_trial,
        "--max-concurrent": max_concurrent,
        "--trial-timeout": trial_timeout,
        "--tracking-uri": tracking_uri,
        "--optuna-storage": optuna_storage,
        "--storage-path": storage_path,
    }
    out.print(commands.submit(study, name, home, address, options), soft_wrap=True)


@app.command()
def logs(
    name: Name,
    home: HomeOption = "runs",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the study ends.")] = False,
) -> None:
    """What the driver of a submitted study printed.

    Example: python -m study logs ablation_pixels -f
    """
    from study import jobs
    from study.home import Home

    jobs.logs(Home.at(home).study(name), functools.partial(typer.echo, nl=False), follow=follow)


@app.command()
def stop(name: Name, home: HomeOption = "runs") -> None:
    """Stop a submitted study; the same submit continues it.

    Example: python -m study stop ablation_pixels
    """
    from study import jobs
    from study.home import Home

    out.print(jobs.stop(Home.at(home).study(name)), soft_wrap=True)


@app.command()
def status(
    name: Name,
    home: HomeOption = "runs",
    format_: FormatOption = Format.table,
    watch: Annotated[bool, typer.Option("--watch", help="Draw it until its driver ends, or Ctrl-C.")] = False,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval", help="Seconds between two looks of --watch: 2; where it is no terminal 20."
        ),
    ] = None,
) -> None:
    """How far a study is, from its ledger, also while it runs.

    Of a submitted one also what became of its job.

    \b
    Examples:
      python -m study status ablation_pixels --watch
      python -m study status ablation_pixels --format json
    """
    from study import jobs
    from study import status as view
    from study import watch as watching
    from study.home import Home

    place = Home.at(home)
    watching.check(watch, interval, format_.value)
    job = jobs.state(place.study(name))
    if job is not None and name not in place.studies():
        raise UserError(job)  # submitted and not begun
    folder = place.existing(name)
    study = folder.frozen()
    assert study is not None
    if watch:
        watching.watch(folder, out, watching.every(interval, out))
        job = jobs.state(folder)
        out.print(Text(job or ""), soft_wrap=True, end="\n" if job else "")
    elif format_ is Format.json:
        typer.echo(view.to_json(study, folder, job))
    elif format_ is Format.markdown:
        typer.echo(view.to_markdown(study, folder))
    else:
        out.print(view.to_table(study, folder))
        out.print(Text(job or ""), soft_wrap=True, end="\n" if job else "")


@app.command()
def ui(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Default: the latest study.")] = None,
    home: HomeOption = "runs",
    port: Annotated[
        int | None, typer.Option("--port", help="Of MLflow; default 5000, or a free one.")
    ] = None,
    tracking_uri: TrackingOption = None,
    optuna_storage: StorageOption = None,
) -> None:
    """A study in MLflow and optuna-dashboard.

    Prints their addresses and that of Ray's dashboard of a running study. Ctrl-C ends it.

    Example: python -m study ui ablation_pixels
    """
    from study import ui as pages
    from study.home import Home

    say = functools.partial(out.print, soft_wrap=True, markup=False)
    pages.serve(Home.at(home), name, say, port=port, tracking_uri=tracking_uri, optuna_url=optuna_storage)


@app.command()
def report(
    name: Name,
    home: HomeOption = "runs",
    format_: FormatOption = Format.table,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for the page; default: HOME/NAME/report.")
    ] = None,
) -> None:
    """The answer of a study, from its ledger, and its report.

    The report is one page, report.html, beside its tables: report.md, arms.tex, pairs.tex. With --format json
    or markdown the answer is only printed, unless --output is given.

    Example: python -m study report ablation_pixels
    """
    from study import answer as answers
    from study import roof
    from study.home import Home

    made = roof.Report(Home.at(home).existing(name))
    answer = made.answer
    if format_ is Format.table:
        out.print(answers.to_table(answer))
    else:
        typer.echo(answers.to_json(answer) if format_ is Format.json else answers.to_markdown(answer))
    if format_ is Format.table or output is not None:
        made.publish(output)
    raise typer.Exit(ANSWERED if answer.complete else NO_ANSWER)


@app.command()
def export(
    name: Name,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to make.")],
    arm: Annotated[str | None, typer.Option(help="Default: the arm that the answer ranks best.")] = None,
    replicate: Annotated[int | None, typer.Option(help="Default: the first that has finished.")] = None,
    torch_export: Annotated[bool, typer.Option("--torch-export", help="Also model.pt2.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also model.onnx; needs the extra `onnx`.")] = False,
    register: Annotated[bool, typer.Option("--register", help="Also as a version in MLflow.")] = False,
    register_as: Annotated[str | None, typer.Option(help="Under this name; default: STUDY.ARM.")] = None,
    home: HomeOption = "runs",
    tracking_uri: TrackingOption = None,
    storage_path: PlaceOption = None,
) -> None:
    """A study's network as a folder.

    Safetensors, what prediction needs, and a model card; nothing is overwritten.

    Example: python -m study export ablation_pixels lesions --arm "statistic + 5 pixels"
    """
    from study import model_commands

    formats = [file for file, wanted in (("model.pt2", torch_export), ("model.onnx", onnx)) if wanted]
    registered = (register or register_as is not None, register_as)
    raise typer.Exit(
        model_commands.export(
            name, destination, arm, replicate, formats, registered, home, tracking_uri, storage_path, out
        )
    )


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="An exported folder, or models:/NAME/VERSION.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="NIfTI, PNG or Parquet, or a folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File or folder to make.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Slices at once; default: by their size.")] = None,
    intensities: Annotated[
        str | None,
        typer.Option(help="stored, window:LOW:HIGH or percentile:P; default: as the model's data were."),
    ] = None,
    orientation: Annotated[
        str | None, typer.Option(help="axial or stored; default: as the model's data were.")
    ] = None,
    home: HomeOption = "runs",
    tracking_uri: TrackingOption = None,
) -> None:
    """Segments images with an exported model.

    Masks have the format, size and affine of their images; nothing is overwritten.

    \b
    Examples:
      python -m study predict lesions ct.nii.gz mask.nii.gz
      python -m study predict lesions folder_of_png masks
    """
    from study import model_commands

    how = {"device": device, "batch": batch_size, "intensities": intensities, "orientation": orientation}
    raise typer.Exit(model_commands.predict(model, source, target, home, tracking_uri, out, how))


def main(program: str = "python -m study", commands: typer.Typer = app) -> None:
    """Entry point. A user's mistake becomes one sentence and exit code 2; a bug keeps its trace."""
    keep_off_the_process_list()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        code = commands(sys.argv[1:], prog_name=program, standalone_mode=False)
    except UserError as error:
        mistake = str(error)
    except _UsageError as error:  # an unknown option or command, a word where a number is due
        mistake = error.format_message()
    else:
        sys.exit(code)
    sys.stderr.write(f"{mistake}\n")
    sys.exit(USERS_MISTAKE)


def run_only() -> typer.Typer:
    """`run` as a program of its own: `python -m study.run NAME`."""
    alone = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
    alone.command(help=f"{inspect.getdoc(run)}\n\n{EXIT_CODES}")(run)
    return alone


__all__ = ["app", "main", "run_only"]
