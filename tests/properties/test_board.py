"""Whatever the order, the workers and the deaths of the driver: the same study, nothing trained twice."""

import pytest

from study import arms as shared
from study.results import TrialRow
from tests.unit.study.conftest import DISCRETE, DIVERGING, SEARCHED, World, a_study

GROUPS, SEEDS_PER_GROUP = 10, 10
STUDY = a_study(trials=9, seed=6)


@pytest.fixture(scope="module")
def undisturbed():
    world = World()
    world.run(STUDY)
    return world


def states(world: World, arm: str, phase: str = "search") -> list[str]:
    rows = [r for r in world.ledger.trials() if r.arm == arm and r.phase == phase]
    return [r.state for r in sorted(rows, key=lambda r: r.number)]


def test_the_toy_study_has_every_kind_of_end(undisturbed):
    """Else the property below would say little."""
    assert {*states(undisturbed, SEARCHED)} == {"finished", "pruned", "diverged", "failed"}
    assert {*states(undisturbed, DIVERGING)} == {"diverged", "pruned"}
    assert states(undisturbed, DIVERGING, "confirm") == []
    copies = [r for r in undisturbed.ledger.trials() if "same_as" in r.details]
    assert {r.arm for r in copies} == {DISCRETE}
    assert len(copies) == STUDY.search.trials - 3  # three configurations
    assert {*states(undisturbed, DISCRETE)} == {"finished", "pruned"}


@pytest.mark.parametrize("group", range(GROUPS))
def test_order_workers_and_deaths_change_nothing(undisturbed, group):
    deaths = 0
    for seed in range(group * SEEDS_PER_GROUP, (group + 1) * SEEDS_PER_GROUP):
        world = World()
        board = world.run(STUDY, seed=seed, concurrency=1 + seed % 6, deadly=0.012 * (seed % 4))
        assert world.outcome() == undisturbed.outcome(), seed
        assert trained_twice(world) == [], seed
        check_memories_agree(board.arms, world.ledger.trials())
        assert told_beyond_its_row(world) == [], seed
        deaths += world.deaths
    assert deaths > SEEDS_PER_GROUP


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_sampler_that_learns_gives_the_same_search_too(sampler):
    """Both draw at random until ten trials are known, so trial 12 is the first that they can shape."""
    arms = [shared.statistic(SEARCHED, 5)]
    calm, mortal, random = World(), World(), World()
    calm.run(a_study(arms=arms, sampler=sampler, trials=13, lookahead=2))
    mortal.run(
        a_study(arms=arms, sampler=sampler, trials=13, lookahead=2), seed=1, concurrency=5, deadly=0.04
    )
    random.run(a_study(arms=arms, sampler="random", trials=13, lookahead=2))
    assert mortal.deaths > 2
    assert mortal.outcome() == calm.outcome()
    assert random.outcome() != calm.outcome()


def trained_twice(world: World) -> list[str]:
    """Keys of which an iteration was trained more than once; what failed may be tried again."""
    failed = {r.key for r in world.ledger.trials() if r.state == "failed"}
    return [key for (key, _), times in world.workers.trained.items() if times > 1 and key not in failed]


def told_beyond_its_row(world: World) -> list[str]:
    """Keys of trials of which MLflow was told more than the ledger keeps."""
    kept = {r.identity: {point["iteration"] for point in r.curve} for r in world.ledger.trials()}
    return [identity[-1] for identity, told in world.workers.told.items() if not set(told) <= kept[identity]]


def check_memories_agree(arms, rows: list[TrialRow]) -> None:
    """Optuna's database tells the same story as the ledger."""
    for name, arm in arms.items():
        searched = {r.number: r for r in rows if r.arm == name and r.phase == "search"}
        stored = arm.store.load()
        assert [a.number for a in stored] == sorted(searched) == list(range(arm.target))
        for attempt in stored:
            row = searched[attempt.number]
            assert attempt.state == row.state
            assert attempt.parameters == row.parameters
            if row.state in ("finished", "pruned"):
                assert attempt.value == row.value
