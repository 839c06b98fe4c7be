"""Every command in `infra/` is one that the installed programs take: a renamed option turns a test red."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.infra.command_lines import check
from tests.infra.files import (
    INFRA,
    ROOT,
    SECRETS,
    code_in,
    commands_in,
    compose,
    document,
    documents,
    interpolated,
    words,
)


def _of_compose() -> list[list[str]]:
    services = interpolated(compose(), SECRETS)["services"].values()
    return [words(one["command"]) for one in services if one.get("command", "").startswith(("ray", "mlflow"))]


def _of_the_launcher() -> list[list[str]]:
    raw = document(INFRA / "ray-cluster.yaml")
    keys = ("head_start_ray_commands", "worker_start_ray_commands", "setup_commands")
    return [call for key in keys for line in raw[key] for call in commands_in(line)]


def _of_comments(path: Path) -> list[list[str]]:
    """The commands that a file's comments show to its reader, each indented or after two blanks."""
    shown = re.findall(r"^#.*?(?: {3}|:  )(.*(?:\n# {5}.*)?)", path.read_text(), re.MULTILINE)
    return commands_in("\n".join(shown).replace("\n#", "\n"))


SOURCES = {
    "compose": _of_compose(),
    "launcher": _of_the_launcher(),
    "job": commands_in(documents(INFRA / "kuberay" / "rayjob.yaml")[0]["spec"]["entrypoint"]),
    "README": commands_in(code_in((INFRA / "README.md").read_text())),
    **{
        f"comments of {path.name}": _of_comments(path)
        for path in sorted(INFRA.rglob("*"))
        if path.is_file() and path.suffix != ".md" and _of_comments(path)
    },
}
ALL = [
    pytest.param(call, id=f"{name}: {' '.join(call)[:60]}")
    for name, calls in SOURCES.items()
    for call in calls
]


@pytest.mark.parametrize("command", ALL)
def test_the_program_takes_it(command: list[str]) -> None:
    assert check(command)


def test_none_was_overlooked() -> None:
    """What each file is for, so that a reader of commands that finds none is noticed."""
    found = {name: {check(call) for call in calls} for name, calls in SOURCES.items()}
    assert found["compose"] == {"ray start", "mlflow server"}
    assert found["launcher"] == {"ray stop", "ray start"}
    assert found["job"] == {"python -m study run"}
    assert {"ray start", "ray up", "ray exec", "mlflow server", "python -m study.run"} <= found["README"]
    assert "python -m study run" in found["comments of slurm.sh"]
    assert "python -m study run" in found["comments of compose.yaml"]
    assert "python -m study run" in found["comments of raycluster.yaml"]


@pytest.mark.parametrize(
    "wrong",
    [
        "ray start --head --prot 6379",
        "ray start --head --port six",
        "ray strat --head",
        "mlflow server --allowed-host localhost",
        "python -m study run ablation_pixels --gpus 1",
        "python -m study run ablation_pixel",
        "python -m study run",
        "python -m trainables.run smoke",
    ],
)
def test_a_wrong_command_is_refused(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check(wrong.split())


def test_commands_are_found_in_shell_text() -> None:
    text = "A=1 ~/bin/ray start \\\n  --head; ray exec f.yaml 'B=2 python -m study run x' && ls # ray stop"
    assert commands_in(text) == [
        ["ray", "start", "--head"],
        ["ray", "exec", "f.yaml", "B=2 python -m study run x"],
        ["python", "-m", "study", "run", "x"],
    ]


def test_files_that_are_named_exist() -> None:
    for path in [*INFRA.rglob("*"), ROOT / "README.md"]:
        if path.is_file():
            for name in re.findall(r"\binfra/[\w./-]*\w", path.read_text()):
                assert (ROOT / name).exists(), f"{path} names {name}"


def test_extras_that_are_installed_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        extra
        for path in INFRA.rglob("*")
        if path.is_file()
        for extra in re.findall(r"(?:/source|study|\.)\[(\w+)\]", path.read_text())
    }
    assert named == {"postgresql"}
    assert named <= set(extras)
