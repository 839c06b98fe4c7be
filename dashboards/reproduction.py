"""How to repeat a study: its commands, checked against its frozen definition, and what it ran on. Pure."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dashboards.grids import Cell, Grid, grid
from search_spaces import UserError
from study import discovery, home, overrides
from study.results import LEDGER_VERSION, TrialRow
from study.spec import FORMAT, Study

_TARGETS = {"search.trials", "replicates.seeds", "data.dataset"}
"""Keys that the command line has options of their own for, or that are settled apart."""


def command(study: Study) -> str | None:
    """The command line that gives this definition; None where no command line does.

    It is tried: what it defines must agree with the frozen definition.
    """
    base = _base(study)
    if base is None:
        return None
    words, made = ["python", "-m", "study.run", base.name], base
    if study.data.dataset != base.data.dataset:
        words += ["--dataset", study.data.dataset]
        made = dataclasses.replace(made, data=dataclasses.replace(made.data, dataset=study.data.dataset))
    if study.name != base.name:
        words += ["--fork", study.name]
        made = dataclasses.replace(made, name=study.name)
    if study.search.trials != base.search.trials:
        words += ["--trials", str(study.search.trials)]
    settings = _settings(base, study)
    try:
        home.agree(study, overrides.apply(made, settings))
    except UserError:
        return None
    words += [word for setting in settings for word in ("--set", setting)]
    return " ".join(map(shlex.quote, words))


def _base(study: Study) -> Study | None:
    """The study file that it was made from: that of its name, else the only one with its arms."""
    if study.name in discovery.names():
        return discovery.load(study.name)
    arms = [arm.name for arm in study.arms]
    found = [s for s in map(discovery.load, discovery.names()) if [arm.name for arm in s.arms] == arms]
    return found[0] if len(found) == 1 else None


def _settings(base: Study, study: Study) -> list[str]:
    """The keys of `--set` whose values differ, the network's name before its settings."""
    wanted = overrides.keys(study)
    known = overrides.keys(base)
    changed = {k: v for k, v in wanted.items() if k not in _TARGETS and known.get(k, ...) != v}
    if study.network == base.network:
        changed.pop("network", None)
    if study.replicates.seeds != base.replicates.seeds:
        changed["replicates.seeds"] = study.replicates.seeds
    return [f"{key}={overrides.text_of(value)}" for key, value in changed.items()]


def facts(study: Study, trials: Sequence[TrialRow]) -> Grid:
    """Data, seeds, search and versions, one a line."""
    data, search = study.data, study.search
    sources: list[dict[str, Any]] = [t.details["trial"]["data"] for t in trials if "trial" in t.details]
    prints = Counter(source["fingerprint"] for source in sources)
    lines = {
        "data set": data.dataset,
        "fingerprint": ", ".join(prints) or "no trial has recorded one",
        "size": "as stored" if data.size is None else f"{data.size[0]} x {data.size[1]}",
        "classes": "foreground merged into one" if data.merge_foreground else "as stored",
        "fold of the search": str(data.fold),
        "seed of the search": str(search.seed),
        "search": f"{search.trials} trials an arm, sampler {search.sampler}, rungs {_listed(search.rungs)}",
        "seeds of the replicates": _listed(study.replicates.seeds),
        "folds of the replicates": _listed(study.replicates.folds),
        "network": " ".join([study.network, *(f"{k}={v}" for k, v in study.network_settings.items())]),
        "ran on": _devices(trials),
        "versions": _versions(trials),
        "formats": f"study {FORMAT}, ledger {LEDGER_VERSION}",
    }
    return grid([{"what": Cell(name), "value": Cell(value)} for name, value in lines.items()])


def _listed(values: Sequence[object]) -> str:
    return ", ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values) or "none"


def _devices(trials: Sequence[TrialRow]) -> str:
    """Devices and hosts with how many trials each had."""
    places: Counter[str] = Counter()
    for trial in trials:
        if trial.is_final:
            device = trial.details.get("machine", {}).get("device", "a device that was not recorded")
            places[f"{device} of {trial.details.get('host') or 'an unnamed host'}"] += 1
    return ", ".join(f"{place} ({count})" for place, count in places.most_common()) or "nothing yet"


def _versions(trials: Sequence[TrialRow]) -> str:
    """Every version that some trial ran with."""
    found: dict[str, set[str]] = {}
    for trial in trials:
        for name, version in trial.details.get("machine", {}).get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    said = (f"{name} {' and '.join(sorted(versions))}" for name, versions in found.items())
    return ", ".join(said) or "not recorded by the release that ran this study"
