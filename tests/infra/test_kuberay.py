"""The Kubernetes manifests: the fields that KubeRay's and Kubernetes' schemas know, and what they promise."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from tests.infra.files import INFRA, commands_in, compose, document

FOLDER = INFRA / "kuberay"

TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required: str, optional: str = "", **properties: Any) -> dict[str, Any]:
    """An object of these fields and no others; those without a schema of their own may hold anything."""
    names = [*required.split(), *optional.split()]
    return {
        "type": "object",
        "required": required.split(),
        "properties": {name: {} for name in names} | properties,
        "additionalProperties": False,
    }


def every(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": item}


WHOLE = {"type": "integer", "minimum": 0}
RESOURCES = closed("requests limits")
CONTAINER = closed(
    "name image resources securityContext volumeMounts",
    "imagePullPolicy ports envFrom env",
    name={"type": "string"},
    image={"type": "string"},
    imagePullPolicy={"enum": ["IfNotPresent"]},
    resources=RESOURCES,
    securityContext=closed("allowPrivilegeEscalation capabilities seccompProfile"),
    ports=every(closed("name containerPort", containerPort=WHOLE, name={"type": "string", "maxLength": 15})),
    env=every(closed("name value", value={"type": "string"})),
    envFrom=every(closed("secretRef", secretRef=closed("name"))),
    volumeMounts=every(closed("name mountPath")),
)
POD = closed(
    "spec",
    spec=closed(
        "containers volumes securityContext automountServiceAccountToken",
        "terminationGracePeriodSeconds",
        containers=every(CONTAINER),
        volumes=every(closed("name", "persistentVolumeClaim emptyDir")),
        securityContext=closed("runAsNonRoot runAsUser runAsGroup fsGroup"),
    ),
)
WORKERS = closed(
    "groupName replicas minReplicas maxReplicas rayStartParams template",
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    rayStartParams=TEXTS,
    template=POD,
)
CLUSTER = closed(
    "rayVersion authOptions enableInTreeAutoscaling autoscalerOptions headGroupSpec workerGroupSpecs",
    rayVersion={"type": "string"},
    authOptions=closed("mode", mode={"const": "token"}),
    enableInTreeAutoscaling={"const": True},
    autoscalerOptions=closed("idleTimeoutSeconds resources", idleTimeoutSeconds=WHOLE, resources=RESOURCES),
    headGroupSpec=closed("rayStartParams template", rayStartParams=TEXTS, template=POD),
    workerGroupSpecs=every(WORKERS),
)
JOB = closed(
    "entrypoint submissionMode backoffLimit shutdownAfterJobFinishes ttlSecondsAfterFinished rayClusterSpec",
    submissionMode={"enum": ["K8sJobMode"]},
    shutdownAfterJobFinishes={"const": True},  # ttlSecondsAfterFinished and backoffLimit need it
    backoffLimit=WHOLE,
    rayClusterSpec=CLUSTER,
)
CLAIM = closed(
    "accessModes resources", accessModes={"const": ["ReadWriteMany"]}, resources=closed("requests")
)


def resource(kind: str, version: str, spec: dict[str, Any]) -> dict[str, Any]:
    named = closed("name", name={"type": "string", "pattern": "^[a-z0-9-]{1,47}$"})
    return closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=named,
        spec=spec,
    )


SCHEMAS = {
    "home.yaml": resource("PersistentVolumeClaim", "v1", CLAIM),
    "raycluster.yaml": resource("RayCluster", "ray.io/v1", CLUSTER),
    "rayjob.yaml": resource("RayJob", "ray.io/v1", JOB),
}


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    spec: dict[str, Any] = document(FOLDER / "raycluster.yaml")["spec"]
    return spec


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [container for pod in pods(spec) for container in pod["containers"]]


def test_every_manifest_keeps_to_its_schema() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(SCHEMAS)
    for name, schema in SCHEMAS.items():
        jsonschema.validate(document(FOLDER / name), schema)


@pytest.mark.parametrize("field", ["minReplica", "rayStartParam"])
def test_a_misspelt_field_is_refused(cluster: dict[str, Any], field: str) -> None:
    wrong = {**cluster["workerGroupSpecs"][0], field: 1}
    with pytest.raises(jsonschema.ValidationError, match=field):
        jsonschema.validate(wrong, WORKERS)


def test_the_job_runs_on_the_same_cluster(cluster: dict[str, Any]) -> None:
    job = document(FOLDER / "rayjob.yaml")["spec"]
    assert job["rayClusterSpec"] == cluster
    (call,) = commands_in(job["entrypoint"])
    assert call[:4] == ["python", "-m", "study", "run"]


def test_head_and_workers_have_one_image_and_one_home(cluster: dict[str, Any]) -> None:
    (image,) = {container["image"] for container in containers(cluster)}
    assert image.split(":")[0] == compose()["services"]["head"]["image"].split(":")[0]
    claim = document(FOLDER / "home.yaml")["metadata"]["name"]
    for pod in pods(cluster):
        claims = [
            v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v
        ]
        assert claims == [claim]
        names = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == names
            assert {"name": "home", "mountPath": "/home/study/runs"} in container["volumeMounts"]


def test_workers_ask_for_gpus_and_the_head_for_none(cluster: dict[str, Any]) -> None:
    head, *workers = containers(cluster)
    assert "nvidia.com/gpu" not in head["resources"]["requests"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for worker in workers:
        assert worker["resources"]["requests"]["nvidia.com/gpu"] == 1
    for container in containers(cluster):  # Ray takes a node's size from the limits
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert container["resources"]["requests"] == container["resources"]["limits"]
    for group in cluster["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] < group["replicas"] < group["maxReplicas"]


def test_pods_hold_no_privileges_and_no_passwords(cluster: dict[str, Any]) -> None:
    for pod in pods(cluster):
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
        }
    for container in containers(cluster):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert {one["name"] for one in container.get("env", [])} <= {"STUDY_HOME"}
    head, *workers = containers(cluster)
    assert head["envFrom"] == [{"secretRef": {"name": "study-servers"}}]
    assert all("envFrom" not in worker for worker in workers)
