"""Prometheus' and Grafana's files fit each other, and the dashboard's queries are well formed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from study.gauges import GAUGES, LABELS
from tests.infra.files import DASHBOARDS, INFRA, compose, document

ON_GPUS = {"ray_node_gpus_utilization", "ray_node_gram_used"}
"""What only a node with a GPU exports; `test_servers.py` finds the rest at a node that runs."""

OF_TRIALS = {f"ray_{name}": set(LABELS) for name in GAUGES}
"""What a running study exports itself, with the labels; `tests/ray/test_exported.py` finds it at one."""

PROVISIONING = INFRA / "grafana" / "provisioning"


def board() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DASHBOARDS / "study.json").read_text())
    return loaded


def expressions() -> list[str]:
    return [target["expr"] for panel in board()["panels"] for target in panel["targets"]]


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """(metric, labels that it is asked by) of every metric of Ray in a query, "by" and "on" included."""
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expression))))
    found = re.findall(r"\b(ray_\w+)(?:\{([^}]*)\})?", expression)
    return [(metric, {*re.findall(r"(\w+)\s*[=!]", inside), *grouped}) for metric, inside in found]


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    services = compose()["services"]
    (source,) = document(PROVISIONING / "datasources" / "prometheus.yaml")["datasources"]
    assert source["type"] == "prometheus"
    port = services["prometheus"]["ports"][0].rsplit(":", 1)[1]
    assert source["url"] == f"http://prometheus:{port}"
    (provider,) = document(PROVISIONING / "dashboards" / "study.yaml")["providers"]
    mounted = dict(
        volume.split(":")[:2] for volume in services["grafana"]["volumes"] if volume.startswith(".")
    )
    assert provider["options"]["path"] == mounted["../dashboards/grafana"]
    assert mounted["./grafana/provisioning"] == "/etc/grafana/provisioning"
    first = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert first == f"{provider['options']['path']}/study.json"
    for panel in board()["panels"]:
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": source["uid"]}


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    panels = board()["panels"]
    assert (
        len({panel["id"] for panel in panels})
        == len({panel["title"] for panel in panels})
        == len(panels)
        > 10
    )
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, panel["title"]
        taken |= cells
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


def test_every_query_asks_ray() -> None:
    for expression in expressions():
        assert selectors(expression), expression
        assert expression.count("(") == expression.count(")")


def test_the_dashboard_shows_every_gauge_of_a_study_by_labels_that_it_has() -> None:
    asked = [found for one in expressions() for found in selectors(one) if found[0].startswith("ray_study")]
    assert {metric for metric, _ in asked} == set(OF_TRIALS)
    for metric, labels in asked:
        assert labels <= OF_TRIALS[metric], metric


def test_ray_names_the_measurements_of_gpus() -> None:
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    known = {f"ray_{one.name}": set(one.view.columns) for one in METRICS_GAUGES.values()}
    asked = [found for one in expressions() for found in selectors(one) if found[0] in ON_GPUS]
    assert {metric for metric, _ in asked} == ON_GPUS
    for metric, labels in asked:
        assert labels - {"instance"} <= known[metric], metric  # Prometheus adds the instance


def test_promtool_reads_prometheus_file() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("`promtool` is not installed")
    subprocess.run(
        ["promtool", "check", "config", str(INFRA / "prometheus.yml")], check=True, capture_output=True
    )
