"""The one file that imports MLflow: the few things the project asks of it, by explicit run id."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import sqlalchemy

from study.delivery import is_disturbance
from study.masking import masked
from study.ownership import OWNER, Owner
from study.run_format import LONGEST_DIGEST, LONGEST_TAG, Point, chunks, identity_of
from study.tracked_runs import Artifacts

ENVIRONMENT = {
    # One attempt of a few seconds: the client's default blocks for minutes, and the delivery retries anyway.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
SQLITE = "sqlite:///"
DATABASE = "mlflow.db"
"""In a home, where no address is given."""
_PAGE, _METRICS_PER_BATCH, _ENTRIES_PER_BATCH = 1000, 900, 100  # together at most 1000 in one request


class Runs:
    """What is asked of MLflow about one study.

    A new experiment keeps its files in the folder `artifacts`, unless a server decides that.
    """

    def __init__(
        self,
        uri: str,
        experiment_name: str,
        experiment_tags: Mapping[str, str],
        artifacts: Path,
        spec_json: str,
        dataset: Mapping[str, Any],
        owner: Owner,
        shared: bool,
    ) -> None:
        """owner: whose the experiment must be, where others may share what lies at the address."""
        import mlflow  # here: `plan` and `report` need not pay the second it takes

        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        # A full disk, say, with a trace; the delivery tells it in a line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        # With a bare database the default for artifacts is the current folder.
        served = uri.startswith(("http://", "https://"))
        if uri.startswith(SQLITE):
            _prepare_sqlite(Path(uri.removeprefix(SQLITE).partition("?")[0]))
        elif not served:
            _knock(uri)
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._spec_json = spec_json
        self._dataset = dataset
        self._experiment = self._find_experiment(
            experiment_name, None if served else artifacts.as_uri(), owner, f"MLflow at {masked(uri)}", shared
        )
        for key, value in {**experiment_tags, **owner.tags}.items():
            self._client.set_experiment_tag(self._experiment, key, value[:LONGEST_TAG])

    def _find_experiment(
        self, name: str, artifact_location: str | None, owner: Owner, service: str, shared: bool
    ) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location, owner.tags))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # made by another driver in this moment
                    raise
            found = self._client.get_experiment_by_name(name)
        if found.lifecycle_stage != "active":
            raise ValueError(f"its experiment {name!r} is deleted: restore that or rename the study")
        self._experiment = str(found.experiment_id)
        if shared:
            owner.check(found.tags, service, OWNER not in found.tags and self._has_others(owner))
        return self._experiment

    def _has_others(self, owner: Owner) -> bool:
        known = owner.known()
        return any(identity_of(tags) not in known for _, _, tags in self.find("trial"))

    def answers(self) -> bool:
        """Whether MLflow is there."""
        try:
            self._client.get_experiment(self._experiment)
        except Exception:  # whatever the reason, the simplest question failed
            return False
        return True

    def find(self, kind: str) -> list[tuple[str, str, dict[str, str]]]:
        """(run id, status, tags) of all runs with this tag study.kind."""
        wanted = f"tags.`study.kind` = '{kind}'"
        page = self._client.search_runs([self._experiment], wanted, max_results=_PAGE)
        found = list(page)
        while page.token:
            page = self._client.search_runs(
                [self._experiment], wanted, max_results=_PAGE, page_token=page.token
            )
            found += page
        return [(run.info.run_id, run.info.status, run.data.tags) for run in found]

    def create(self, name: str, tags: Mapping[str, str], milliseconds: int) -> str:
        """A run that is RUNNING since then; its id."""
        short = {key: text[:LONGEST_TAG] for key, text in tags.items()}
        run = self._client.create_run(self._experiment, start_time=milliseconds, tags=short, run_name=name)
        return str(run.info.run_id)

    def delete(self, run_id: str) -> None:
        """Out of every list; MLflow keeps it among its deleted ones."""
        self._client.delete_run(run_id)

    def resume(self, run_id: str) -> None:
        """RUNNING again."""
        self._client.update_run(run_id, status="RUNNING")

    def end(self, run_id: str, status: str, milliseconds: int) -> None:
        """Status and end time (update_run would leave the latter empty)."""
        self._client.set_terminated(run_id, status, milliseconds)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags, cut to the longest that MLflow takes."""
        from mlflow.entities import RunTag

        entries = [RunTag(key, text[:LONGEST_TAG]) for key, text in tags.items()]
        for part in chunks(entries, _ENTRIES_PER_BATCH):
            self._client.log_batch(run_id, tags=part)

    def replace_tags(self, run_id: str, prefix: str, tags: Mapping[str, str]) -> None:
        """Set these tags and delete all others with the prefix."""
        for stale in self._client.get_run(run_id).data.tags:
            if stale.startswith(prefix) and stale not in tags:
                self._client.delete_tag(run_id, stale)
        self.tag(run_id, tags)

    def complete_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        """Log the parameters that the run lacks; those it has cannot be changed."""
        known = self._client.get_run(run_id).data.params
        self.log_parameters(run_id, {key: text for key, text in parameters.items() if key not in known})

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        """Log parameters of which the run has none."""
        from mlflow.entities import Param

        entries = [Param(key, text) for key, text in parameters.items()]
        for part in chunks(entries, _ENTRIES_PER_BATCH):
            self._client.log_batch(run_id, params=part)

    def log(self, run_id: str, points: Sequence[Point], tags: Mapping[str, str] | None = None) -> None:
        """Append points, and set a few tags in the same request."""
        from mlflow.entities import Metric, RunTag

        entries = [Metric(point.metric, point.value, point.milliseconds, point.step) for point in points]
        marks = [RunTag(key, text[:LONGEST_TAG]) for key, text in (tags or {}).items()]
        parts = list(chunks(entries, _METRICS_PER_BATCH)) or ([[]] if marks else [])
        for part in parts:
            self._client.log_batch(run_id, metrics=part, tags=marks if part is parts[-1] else ())

    def logged(self, run_id: str) -> set[tuple[str, int]]:
        """(metric, step) of every point of the run."""
        metrics = self._client.get_run(run_id).data.metrics
        return {
            (metric, point.step)
            for metric in metrics
            for point in self._client.get_metric_history(run_id, metric)
        }

    def last_point(self, run_id: str, metric: str) -> Point | None:
        """The point with the highest step."""
        history = self._client.get_metric_history(run_id, metric)
        last = max(history, key=lambda point: point.step, default=None)
        return None if last is None else Point(metric, last.value, last.step, last.timestamp)

    def attach(self, run_id: str, artifacts: Artifacts) -> None:
        """Upload files."""
        for file, folder in artifacts:
            self._client.log_artifact(run_id, str(file), folder or None)

    def write_text(self, run_id: str, text: str, name: str) -> None:
        """A text as the artifact `name`."""
        self._client.log_text(run_id, text, name)

    def describe(self, run_id: str) -> None:
        """The data set as an input of the run and the frozen study as spec.json."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = self._dataset
        entity = Dataset(
            name=str(data["name"]),
            digest=str(data["fingerprint"])[:LONGEST_DIGEST],
            source_type="local",
            source=json.dumps({"uri": str(data["path"])}),
            profile=json.dumps({name: data[name] for name in ("num_images", "num_cases")}),
        )
        context = [InputTag(key="mlflow.data.context", value="train, validation, test")]
        self._client.log_inputs(run_id, datasets=[DatasetInput(dataset=entity, tags=context)])
        self.write_text(run_id, self._spec_json, "spec.json")


def is_trouble(error: Exception) -> bool:
    """A lost connection, or a server that says itself that it, or its database, is in trouble."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None and hasattr(error, "get_http_status_code"):
        status = error.get_http_status_code()
    return is_disturbance(error) or (status is not None and (status >= 500 or status == 429))


def _knock(uri: str) -> None:
    """Opens a database with a server before MLflow does, which tries a hopeless one for minutes."""
    engine = sqlalchemy.create_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _prepare_sqlite(path: Path) -> None:
    """Opens a database file before MLflow does, which tries a hopeless one for more than a minute.

    A new one appears whole or not at all: one whose making was cut off MLflow would never accept again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        import mlflow

        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        mlflow.MlflowClient(tracking_uri=f"{SQLITE}{draft}").search_experiments(max_results=1)
        with suppress(FileExistsError):  # another driver was faster
            os.link(draft, path)
        draft.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA schema_version")


class Registry:
    """Registered models whose versions are plain files among the artifacts of an arm's run.

    Raises OSError for a database file that is not there: nothing is made up.
    """

    FOLDER = "study.folder"
    """Tag of a version: where its files lie in its run."""

    def __init__(self, uri: str) -> None:
        import mlflow

        if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE).partition("?")[0]).is_file():
            raise FileNotFoundError("there is no such file")
        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        self._client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)

    def arm_run(self, experiment: str, arm: str) -> str | None:
        """Id of the arm's run; None where there is none."""
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            return None
        runs = self._client.search_runs([found.experiment_id], "tags.`study.kind` = 'arm'", max_results=_PAGE)
        return next((run.info.run_id for run in runs if run.data.tags.get("study.arm") == arm), None)

    def add_version(
        self,
        name: str,
        run_id: str,
        files: Sequence[Path],
        folder: str,
        tags: Mapping[str, str],
        description: str,
    ) -> int:
        """The number of a new version of the model `name`, made where it is new."""
        for file in files:
            self._client.log_artifact(run_id, str(file), folder)
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name, description=description)
        source = f"{self._client.get_run(run_id).info.artifact_uri}/{folder}"
        version = self._client.create_model_version(
            name, source, run_id, tags={**tags, self.FOLDER: folder}, description=description
        )
        return int(version.version)

    def fetch(self, name: str, version: str, into: Path, needed: str) -> Path | None:
        """The files of a version in a folder below `into`; None where it was not made by `add_version`."""
        found = self._client.get_model_version(name, version)
        folder = found.tags.get(self.FOLDER, "")
        if not folder or not found.run_id:
            return None
        place = Path(self._client.download_artifacts(found.run_id, folder, str(into)))
        return place if (place / needed).is_file() else None
