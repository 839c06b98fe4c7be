"""How the tests of `infra/` read its files: YAML, compose's variables, the commands that stand in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
DASHBOARDS = ROOT / "dashboards" / "grafana"

SECRETS = {"POSTGRES_PASSWORD": "a password", "RAY_AUTH_TOKEN": "a" * 32, "GRAFANA_PASSWORD": "another"}
"""What compose.yaml asks of the environment, with values that a test may use."""

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")


class MissingError(Exception):
    """A variable that has no default is not set; the message is the file's own."""


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def document(path: Path) -> Any:
    (only,) = documents(path)
    return only


def interpolated(value: Any, environment: Mapping[str, str]) -> Any:
    """Compose's ${NAME}, ${NAME:-default} and ${NAME:?sentence}, in all strings below `value`."""
    if isinstance(value, dict):
        return {k: interpolated(v, environment) for k, v in value.items()}
    if isinstance(value, list):
        return [interpolated(v, environment) for v in value]
    if not isinstance(value, str):
        return value

    def replace(found: re.Match[str]) -> str:
        given = environment.get(found["name"], "")
        if given or found["kind"] is None:
            return given
        if found["kind"] == "?":
            raise MissingError(found["rest"])
        return found["rest"]

    return _VARIABLE.sub(replace, value)


def variables(value: Any) -> Iterator[tuple[str, str | None, str | None]]:
    """(name, "-" or "?" or None, default or sentence) of every variable below `value`."""
    if isinstance(value, dict):
        for part in value.values():
            yield from variables(part)
    elif isinstance(value, list):
        for part in value:
            yield from variables(part)
    elif isinstance(value, str):
        for found in _VARIABLE.finditer(value):
            yield found["name"], found["kind"], found["rest"]


def strings(value: Any) -> Iterator[str]:
    """Every string below `value`."""
    if isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)
    elif isinstance(value, str):
        yield value


def compose() -> dict[str, Any]:
    """compose.yaml as it is written, its anchors resolved."""
    loaded: dict[str, Any] = document(INFRA / "compose.yaml")
    return loaded


def words(command: str | list[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else list(command)


def commands_in(text: str) -> list[list[str]]:
    """The calls of ray, mlflow, python -m and slurm.sh in shell text, and in the strings that it quotes.

    Continued lines are joined; comments end a command; variables set before it are left out.
    """
    found = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        for part in _parts(line):
            while part and re.fullmatch(r"\w+=.*", part[0]):
                part = part[1:]
            if part[:1] in (["docker"], ["kubectl"]) and "python" in part:  # which start it somewhere else
                part = part[part.index("python") :]
            if part:
                name = Path(part[0]).name
                if name in ("ray", "mlflow") or (name == "python" and part[1:2] == ["-m"]):
                    found.append([name, *part[1:]])
                if name == "sbatch" and "infra/slurm.sh" in part:  # which passes the rest on
                    found.append(["python", "-m", "study", "run", *part[part.index("infra/slurm.sh") + 1 :]])
                found += [call for word in part if " " in word for call in commands_in(word)]
    return found


def _parts(line: str) -> list[list[str]]:
    """A line's commands, parted at ; & | and their like."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.commenters, lexer.whitespace_split = "#", True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|"):
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def code_in(markdown: str) -> str:
    """The lines that are indented by four blanks, and commands of three words and more within the text."""
    blocks = [line[4:] for line in markdown.splitlines() if line.startswith("    ")]
    within = re.findall(r"`([^`]+)`", markdown)
    return "\n".join([*blocks, *(code for code in within if len(code.split()) > 2)])
