"""Benchmarks report ratios of two things timed in one run; the table at the end names them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

_LINES: list[str] = []


@pytest.fixture
def ratio(request: pytest.FixtureRequest) -> Callable[[str, float, str], None]:
    """`ratio("what over what", 1.23, "goal")` adds a line to the table and to the benchmark's extra info."""

    def note(what: str, value: float, goal: str) -> None:
        benchmark = request.getfixturevalue("benchmark")
        benchmark.extra_info[what] = value
        _LINES.append(f"{what}: {value:.3g} (goal {goal})")

    return note


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Benchmarks run when they are asked for, not with the tests."""
    if config.getoption("benchmark_only"):
        return
    for item in items:
        if "benchmarks" in item.path.parts:
            item.add_marker(pytest.mark.skip(reason="a benchmark: pytest tests/benchmarks --benchmark-only"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _LINES:
        terminalreporter.section("ratios, each measured in one run")
        for line in _LINES:
            terminalreporter.write_line(line)
