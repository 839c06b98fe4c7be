"""The Dockerfile: a user without rights, the package from its source, no secrets, one Ray everywhere."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.infra.files import INFRA, ROOT, compose, document

KNOWN = {"FROM", "ARG", "RUN", "COPY", "USER", "WORKDIR", "ENV", "CMD"}


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (INFRA / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line]


@pytest.fixture(scope="module")
def arguments() -> dict[str, str]:
    return dict(value.split("=", 1) for name, value in instructions() if name == "ARG")


def ray_of_the_project() -> Requirement:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (ray,) = [one for one in map(Requirement, named) if one.name == "ray"]
    return ray


def test_instructions() -> None:
    found = instructions()
    assert {name for name, _ in found} == KNOWN
    assert found[0][0] == "FROM"
    python = found[0][1].removeprefix("python:").removesuffix("-slim")
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert Requirement(f"python{wanted}").specifier.contains(python)


def test_it_runs_as_a_user_without_rights() -> None:
    found = instructions()
    users = [(at, value) for at, (name, value) in enumerate(found) if name == "USER"]
    assert [value for _, value in users] == ["1000:1000"]
    after = {name for name, _ in found[users[0][0] + 1 :]}
    assert after == {"WORKDIR", "ENV", "CMD"}


def test_it_holds_no_secrets(arguments: dict[str, str]) -> None:
    environment = " ".join(value for name, value in instructions() if name == "ENV")
    assert not re.search("PASSWORD|TOKEN|SECRET|KEY", " ".join(arguments) + environment)


def test_all_packages_are_copied_and_nothing_else() -> None:
    """What Docker may read is what the Dockerfile copies, and both are what pyproject.toml installs."""
    copied = {source for name, value in instructions() if name == "COPY" for source in value.split()[:-1]}
    ignored = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"][
        "include"
    ]
    assert copied == let_in == {*(name.removesuffix("*") for name in found), "pyproject.toml", "README.md"}
    assert "*" in ignored


def test_every_node_has_the_same_ray(arguments: dict[str, str]) -> None:
    version = arguments["RAY_VERSION"]
    ray = ray_of_the_project()
    assert ray.specifier.contains(version)
    for name, path in {"raycluster.yaml": ("spec",), "rayjob.yaml": ("spec", "rayClusterSpec")}.items():
        spec = document(INFRA / "kuberay" / name)
        for key in path:
            spec = spec[key]
        assert spec["rayVersion"] == version, name
    installed = " ".join(value for name, value in instructions() if name == "RUN")
    assert f'"ray[{",".join(sorted(ray.extras))}]==${{RAY_VERSION}}"' in installed


def test_compose_passes_its_device_on(arguments: dict[str, str]) -> None:
    build = compose()["services"]["head"]["build"]
    assert set(build["args"]) <= set(arguments)
    assert build["args"]["DEVICE"] == f"${{DEVICE:-{arguments['DEVICE']}}}"
    assert (INFRA / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).exists()


def test_the_folders_of_volumes_belong_to_the_user() -> None:
    made = " ".join(value for name, value in instructions() if name == "RUN")
    mounted = {
        volume.split(":")[1]
        for name in ("head", "worker", "mlflow")
        for volume in compose()["services"][name]["volumes"]
    }
    assert mounted == {"/home/study/runs", "/home/study/artifacts"}
    for folder in mounted:
        assert re.search(rf"install --directory --owner=study --group=study [^&]*{folder}\b", made)
