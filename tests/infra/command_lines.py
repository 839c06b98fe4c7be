"""Whether the real programs would take a command line; none of them is started."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from study import cli, discovery


def check(command: Sequence[str]) -> str:
    """The program's path of commands ("ray start"). Raises AssertionError when it would refuse the words."""
    program, *rest = command
    if program == "python":
        return _check_module(rest[1], rest[2:])
    return _check_click(program, _click_of(program), rest)[0]


def _click_of(program: str) -> Any:
    if program == "ray":
        from ray.scripts.scripts import cli as ray_cli

        return ray_cli
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about MLflow's own code
        from mlflow.cli import cli as mlflow_cli

    return mlflow_cli


def _check_module(module: str, rest: Sequence[str]) -> str:
    """`python -m study COMMAND` and `python -m study.run NAME`; a study that is named must exist."""
    if module not in ("study", "study.run"):
        raise AssertionError(f"python -m {module} is none of the project's programs")
    app = cli.app if module == "study" else cli.run_only()
    path, parameters = _check_click(f"python -m {module}", typer.main.get_command(app), rest)
    name = parameters.get("name")
    if name is not None and name not in discovery.names():
        raise AssertionError(f"{path} names the study {name!r}, which does not exist")
    return path


def _check_click(path: str, command: Any, rest: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Goes down the groups as the parser does, and parses the last command's words."""
    context, quiet = None, io.StringIO()
    with contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
        try:
            while True:
                context = command.make_context(path, list(rest), parent=context)
                if not hasattr(command, "resolve_command"):
                    return path, dict(context.params)
                remaining = [*context._protected_args, *context.args]
                name, command, rest = command.resolve_command(context, remaining)
                path = f"{path} {name}"
        except Exception as error:  # what the two libraries raise for a bad command line is private to them
            said = getattr(error, "format_message", lambda: repr(error))()
            raise AssertionError(f"{path} refuses {' '.join(rest)!r}: {said}") from error
