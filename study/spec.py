"""A study as a frozen value: the question, its arms, the search inside each, the replicates that judge."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search_spaces import Choice, Domain, Float, Int, UserError, nearest, space_of
from search_spaces.fields import check_values
from study import kinds
from study import names as naming
from trainables import discovery, networks
from trainables.annotations import Annotation
from trainables.metrics import METRICS
from trainables.protocol import Protocol

FORMAT = 1
"""Version of spec.json and of the run folder around it."""

SAMPLERS = ("auto", "gp", "tpe", "random")
MOST_TRIALS = 1_000_000
GP_LIMIT = 300
"""Trials up to which a Gaussian process is the better sampler (measured, eight mixed parameters)."""


PRETRAINING = "pre-training"
"""Stands where an arm's name does, in the ledger and in MLflow, for the trainings that arms start from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A training whose network an arm's trials start from; its protocol is the study's `pretraining`."""

    method: str
    annotation: Annotation
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One thing that is compared: a method, the supervision it is given, and what its search may vary."""

    name: str
    method: str
    annotation: Annotation
    settings: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Domain] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """What this arm changes in the study's protocol."""
    longer: int = 1
    """How many times as long as the study's other arms it trains, whatever their length is set to."""
    pretraining: Stage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How each arm's hyper-parameters are searched on the validation split."""

    trials: int = 20
    sampler: str = "auto"
    rungs: tuple[float, ...] = (1 / 3,)
    """Fractions of a training after which the worse trials of an arm are stopped."""
    reduction: int = 3
    """At a rung the best 1/reduction of the trials seen there go on."""
    lookahead: int = 4
    """Trials of one arm that may run at once. Trial n is proposed from the results of the trials up to
    n - lookahead and no others, so the search is the same whatever the machine and its luck."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicates:
    """Fresh seeds, and folds, on which each arm's selected configuration is trained again and tested."""

    seeds: tuple[int, ...] = (1001, 1002, 1003)
    folds: tuple[int, ...] = (0,)

    def pairs(self) -> list[tuple[int, int]]:
        """(seed, fold) of every replicate, in order; seeds that are added keep the others' places."""
        return [(seed, fold) for seed in self.seeds for fold in self.folds]


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Which data set, and how it is read."""

    dataset: str = "phantoms-lesions"
    """A name (`python -m study data list`) or the path of a Parquet file."""
    size: tuple[int, int] | None = None
    merge_foreground: bool = False
    fold: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Everything that decides what a study does. Validates itself: raises UserError."""

    name: str
    question: str
    arms: tuple[Arm, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    """Arms to compare; empty means every pair."""
    metric: str = "dice"
    watch: tuple[str, ...] = ()
    """What is shown beside the metric, but selects nothing: further metrics, which every validation then
    computes, and terms of the loss as the curves name them, such as "loss_size"."""
    data: Data = field(default_factory=Data)
    search: Search = field(default_factory=Search)
    replicates: Replicates = field(default_factory=Replicates)
    network: str = "unet"
    network_settings: Mapping[str, Any] = field(default_factory=dict)
    protocol: Protocol = field(default_factory=Protocol)
    pretraining: Protocol | None = None
    """The protocol of the arms' pre-training stages; None where no arm has one."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_replicates(self) -> int:
        return len(self.replicates.pairs())

    @property
    def greater_is_better(self) -> bool:
        return METRICS[self.metric]

    @property
    def worst(self) -> float:
        """What a trial counts as whose metric is undefined, such as the HD95 of an empty prediction."""
        return 0.0 if self.greater_is_better else math.inf

    def arm(self, name: str) -> Arm:
        return next(a for a in self.arms if a.name == name)

    def compared(self) -> tuple[tuple[str, str], ...]:
        """The pairs of arms that the answer speaks about."""
        names = [a.name for a in self.arms]
        every = tuple((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
        return self.pairs or every

    def to_dict(self) -> dict[str, Any]:
        raw = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            "format": FORMAT,
            **raw,
            "arms": [_arm_to_dict(a) for a in self.arms],
            **{k: None if raw[k] is None else dataclasses.asdict(raw[k]) for k in PARTS},
            "network_settings": dict(self.network_settings),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, sort_keys=True)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Study:
        """Reads `to_dict`. Raises UserError for another format, an unknown key or a damaged value."""
        if not isinstance(raw, Mapping) or raw.get("format") != FORMAT:
            found = raw.get("format") if isinstance(raw, Mapping) else None
            raise UserError(
                f"This study was written in format {found!r:.60}, this program reads format "
                f"{FORMAT}; use the program's version that wrote it, or another --home."
            )
        values = {k: v for k, v in raw.items() if k != "format"}
        needed = ("name", "question", "arms", "protocol", "search", "data", "replicates")
        missing = [name for name in needed if name not in values]
        if missing:
            raise UserError(f"A study must hold {', '.join(missing)}, but this one does not; restore it.")
        try:
            values["arms"] = tuple(_arm_from_dict(a) for a in values["arms"])
            values["pairs"] = tuple((a, b) for a, b in values.get("pairs", ()))
            parts = {
                name: _part(part, values[name])
                for name, part in PARTS.items()
                if values.get(name) is not None
            }
            study: Study = _part(cls, values | parts)
            _check_settings(study)
        except UserError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"A study must be whole, but this one is damaged ({reason}); restore it."
            ) from error
        return study

    @classmethod
    def from_json(cls, text: str) -> Study:
        """Raises UserError for what is no JSON, and as `from_dict`."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"A study must be JSON, but it is damaged: {error}; restore it.") from error
        return cls.from_dict(raw)


PARTS: dict[str, type[Any]] = {
    "protocol": Protocol,
    "pretraining": Protocol,
    "search": Search,
    "data": Data,
    "replicates": Replicates,
}
"""The settings of a study that are values of their own."""


def space(method: str, *names: str, **narrowed: Domain) -> dict[str, Domain]:
    """The dimensions that an arm searches: `names` as the method declares them, `narrowed` within that.

    Raises UserError for a name that neither the method nor the protocol searches, or a range that is wider.
    """
    known = {**space_of(Protocol), **space_of(discovery.load(method))}
    out: dict[str, Domain] = {}
    for name in (*names, *narrowed):
        if name not in known:
            raise UserError(f"Nothing to search is called {name!r} in {method}.{nearest(name, known)}")
        domain = narrowed.get(name, known[name])
        if any(corner not in known[name] for corner in domain.corners()):
            raise UserError(f"A search may only narrow: {name} in {domain} leaves {known[name]}.")
        out[name] = domain
    return out


def protocol_of(study: Study, arm: Arm, **searched: Any) -> Protocol:
    """How an arm's trials are trained: the study's protocol, what the arm changes, and what it searches."""
    protocol = dataclasses.replace(study.protocol, **arm.protocol, **searched)
    return dataclasses.replace(protocol, iterations=protocol.iterations * arm.longer)


def search_trials(study: Study, arm: Arm) -> int:
    """How many trials an arm's search has; an arm that searches nothing is confirmed as it stands."""
    return study.search.trials if arm.search else 0


def base_point(study: Study, arm: Arm) -> dict[str, Any]:
    """The arm's configuration before any search: what its file fixes, else the published defaults."""
    defaults = discovery.load(arm.method)()
    protocol = {**dataclasses.asdict(study.protocol), **arm.protocol}
    return {
        name: arm.settings[name] if name in arm.settings else protocol[name] if name in protocol
        else getattr(defaults, name)
        for name in arm.search
    }  # fmt: skip


def _check_settings(study: Study) -> None:
    """What a run checks before it starts, of a study that a file holds. Raises UserError."""
    stages = [arm.pretraining for arm in study.arms if arm.pretraining is not None]
    kinds.check(study, study.data, study.search, study.replicates, *study.arms, *stages)
    for name in ("protocol", "pretraining"):
        if getattr(study, name) is not None:
            check_values(Protocol, dataclasses.asdict(getattr(study, name)), owner=f"the {name}")
    networks.check(study.network, study.network_settings)
    parts: list[Arm | Stage] = [*study.arms, *stages]
    for part in parts:
        check_values(discovery.load(part.method), part.settings, owner=f"method {part.method}")


def _check(study: Study) -> None:
    names = [a.name for a in study.arms]
    _rule(
        naming.is_study(study.name),
        f"A study's name must be {naming.RULE}, for a folder has it, but got {study.name!r:.120}",
    )
    for name in names:
        _rule(
            naming.is_arm(name),
            f"An arm's name must be 1 to {naming.LONGEST} printable characters, but got {name!r:.120}",
        )
    _rule(len(names) > 0, f"Study {study.name} needs at least one arm")
    _rule(len(set(names)) == len(names), f"Arms of {study.name} must have different names, but got {names}")
    _rule(PRETRAINING not in names, f"No arm may be called {PRETRAINING!r}: shared trainings are; rename it")
    for pair in study.pairs:
        for name in pair:
            _rule(name in names, f"The pair {pair} names no arm {name!r}.{nearest(name, names)}")
    for metric in (study.metric, *(name for name in study.watch if not name.startswith("loss_"))):
        if metric not in METRICS:
            near = nearest(metric, METRICS)
            raise UserError(f"There is no metric {metric!r}.{near} Metrics: {', '.join(METRICS)}.")
    search, replicates = study.search, study.replicates
    _rule(search.trials >= 1, f"--trials must be 1 or more, but got {search.trials}")
    _rule(search.trials <= MOST_TRIALS, f"--trials must be {MOST_TRIALS} or less, but got {search.trials}")
    seeds = [search.seed, *replicates.seeds]
    _rule(all(0 <= seed < 2**63 for seed in seeds), f"Seeds must lie in 0 .. 2**63 - 1, but got {seeds}")
    _rule(search.lookahead >= 1, f"search.lookahead must be 1 or more, but got {search.lookahead}")
    _rule(search.reduction >= 2, f"search.reduction must be 2 or more, but got {search.reduction}")
    _rule(
        search.sampler in SAMPLERS,
        f"search.sampler must be one of {', '.join(SAMPLERS)}, but got {search.sampler!r}",
    )
    _rule(
        all(0 < r < 1 for r in search.rungs), f"search.rungs must lie between 0 and 1, but got {search.rungs}"
    )
    _rule(len(replicates.pairs()) >= 1, "--replicates must be 1 or more, but got 0")
    for name in ("seeds", "folds"):
        values = getattr(replicates, name)
        _rule(
            len(set(values)) == len(values),
            f"replicates.{name} must differ from each other, but got {values}: a repeated one is no evidence",
        )
    _rule(
        search.seed not in replicates.seeds,
        f"replicates.seeds {replicates.seeds} must not hold the search's own seed {search.seed}: "
        "the confirmation needs fresh ones",
    )
    for arm in study.arms:
        space(arm.method, **arm.search)
        check_values(Protocol, arm.protocol, owner=f"the protocol of arm {arm.name!r}")
        _rule(
            arm.pretraining is None or study.pretraining is not None,
            f"Arm {arm.name!r} starts from a pre-training, so the study needs `pretraining`, its protocol",
        )
        both = sorted(arm.protocol.keys() & arm.search.keys())
        _rule(arm.longer >= 1, f"Arm {arm.name!r}: longer must be 1 or more, but got {arm.longer}")
        _rule(not both, f"Arm {arm.name!r} both fixes and searches {', '.join(both)}; do one")
        for name, value in base_point(study, arm).items():
            domain = arm.search[name]
            _rule(
                value in domain,
                f"Arm {arm.name!r} starts at {name} = {value!r}, which its search {domain} cannot reach",
            )


def _rule(holds: bool, sentence: str) -> None:
    if not holds:
        raise UserError(sentence if sentence.endswith(("?", ".")) else f"{sentence}.")


def _part(cls: type[Any], raw: Mapping[str, Any]) -> Any:
    fields = {f.name for f in dataclasses.fields(cls)}
    for name in raw:
        if name not in fields:
            raise UserError(f"A study's {cls.__name__.lower()} has no {name!r}.{nearest(name, fields)}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()})


def _arm_to_dict(arm: Arm) -> dict[str, Any]:
    return {
        "name": arm.name,
        "method": arm.method,
        "annotation": arm.annotation.to_dict(),
        "settings": dict(arm.settings),
        "search": {k: dataclasses.asdict(d) for k, d in arm.search.items()},
        "protocol": dict(arm.protocol),
        "longer": arm.longer,
        "pretraining": None if arm.pretraining is None else _stage_to_dict(arm.pretraining),
    }


def _stage_to_dict(stage: Stage) -> dict[str, Any]:
    return {
        "method": stage.method,
        "annotation": stage.annotation.to_dict(),
        "settings": dict(stage.settings),
    }


def _arm_from_dict(raw: Mapping[str, Any]) -> Arm:
    values = dict(raw)
    values["annotation"] = Annotation.from_dict(values["annotation"])
    values["search"] = {k: _domain(d) for k, d in values["search"].items()}
    if values.get("pretraining") is not None:
        stage = dict(values["pretraining"])
        values["pretraining"] = _part(
            Stage, {**stage, "annotation": Annotation.from_dict(stage["annotation"])}
        )
    arm: Arm = _part(Arm, values)
    return arm


def _domain(raw: Mapping[str, Any]) -> Domain:
    if "options" in raw:
        return Choice(tuple(raw["options"]))
    return Float(**raw) if "log" in raw else Int(**raw)
