"""Exported models in MLflow's registry, as plain files: versions that `study predict` can name."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from search_spaces import UserError
from study.delivery import reason_of
from study.export import Export, facts_of
from study.home import Home
from study.masking import masked, scrubbed
from study.mlflow_runs import DATABASE, ENVIRONMENT, SQLITE, Registry
from trainables import exported

URI = re.compile(r"models:/([^/]+)/([0-9]+)")


def register(done: Export, home: Home, name: str | None, tracking_uri: str | None) -> str:
    """Makes an exported folder a new version of the registered model `name` (default: STUDY.ARM).

    What the version points to lies among the artifacts of the arm's run. Returns "models:/NAME/VERSION".
    Raises UserError where MLflow cannot be used or never heard of the arm.
    """
    registered = name or _default_name(done.study.name, done.row.arm)
    files = [done.path / file for file in sorted(p.name for p in done.path.iterdir())]
    with _opened(home, tracking_uri) as registry:
        run_id = registry.arm_run(done.study.name, done.row.arm)
        if run_id is None:
            raise UserError(
                f"MLflow must have the run of arm {done.row.arm!r} of {done.study.name}, and this one has "
                "not; give the --tracking-uri that the study was run with."
            )
        tags = {key: str(value) for key, value in facts_of(done).items()}
        version = registry.add_version(
            registered, run_id, files, f"exported/{done.row.key}", tags, done.study.question
        )
    return f"models:/{registered}/{version}"


def _default_name(study: str, arm: str) -> str:
    """MLflow takes no slash, colon or quote in the name of a model."""
    return f"{study}.{re.sub(r'[^A-Za-z0-9_+ -]', '_', arm)}".replace(" ", "_")


@contextlib.contextmanager
def folder_of(model: str, home: str, tracking_uri: str | None) -> Iterator[Path]:
    """The folder of a model: a path, or "models:/NAME/VERSION", which is fetched. Raises UserError."""
    if not model.startswith("models:"):
        yield Path(model)
        return
    match = URI.fullmatch(model)
    if match is None:
        raise UserError(f"A registered model is named models:/NAME/VERSION, but got {model!r:.120}.")
    with tempfile.TemporaryDirectory(prefix="model-") as private, contextlib.ExitStack() as stack:
        registry = stack.enter_context(_opened(Home.at(home), tracking_uri))
        folder = registry.fetch(match[1], match[2], Path(private), exported.DESCRIPTION)
        if folder is None:
            raise UserError(
                f"{model} is no model that `python -m study export --register` made; name its folder instead."
            )
        stack.close()
        yield folder


@contextlib.contextmanager
def _opened(home: Home, tracking_uri: str | None) -> Iterator[Registry]:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    uri = tracking_uri or f"{SQLITE}{home.path / DATABASE}"
    try:
        yield Registry(uri)
    except UserError:
        raise
    except Exception as error:  # of network, database or disk, under whatever name the client raises it
        raise UserError(
            f"MLflow at {masked(uri)} cannot be used ({scrubbed(reason_of(error), uri)}): start that server, "
            "or correct --tracking-uri or --home."
        ) from error
