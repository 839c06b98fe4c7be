"""Learning curves, search and gallery on the page: what they say, leave out, and how much they take."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from dashboards.sections import gallery as gallery_section
from dashboards.sections import learning_curves, search
from dashboards.source import Source
from search_spaces import Float
from study.conclusion import build
from study.spec import Arm, Study
from tests.unit.dashboards.rows import case, trial
from trainables import gallery
from trainables.annotations import Annotation

NASTY = "<b>a</b> & $x$"


def a_source(arms, trials, cases=(), folder=Path("nowhere")):
    """arms: name -> what it searches."""
    made = tuple(
        Arm(name=name, method="full_supervision", annotation=Annotation(pixels="dense"), search=space)
        for name, space in arms.items()
    )
    spec = Study(name="toy", question="?", arms=made)
    answer = build("toy", "dice", [*arms], spec.compared(), spec.num_replicates, trials, cases)
    return Source(spec=spec, folder=folder, trials=tuple(trials), cases=tuple(cases), answer=answer)


SPACE = {"learning_rate": Float(1e-3, 1e-2, log=True), "dice_weight": Float(0.0, 1.0)}


def tried(number, arm="a", **changes):
    rng = np.random.default_rng(number)
    own = {
        "learning_rate": float(10 ** rng.uniform(-3, -2)),
        "dice_weight": float(rng.uniform()),
    }
    value = 0.8 + 0.1 * np.log10(own["learning_rate"]) + 0.001 * number % 0.01
    return trial(number, arm=arm, **{"parameters": own, "value": float(value), **changes})


def test_a_study_without_trials_has_none_of_the_sections():
    empty = a_source({"a": SPACE}, [])
    assert [section.html(empty) for section in (learning_curves, search, gallery_section)] == ["", "", ""]


def test_learning_curves_name_their_arms_and_what_was_not_drawn():
    reports = [{"iteration": 10.0, "dice": 0.4, "loss_total": 2.0}]
    rows = [tried(n, NASTY, curve=reports) for n in range(learning_curves.MOST_CURVES + 9)]
    rows.append(trial(0, arm=NASTY, phase="confirm"))
    page = learning_curves.html(a_source({NASTY: SPACE, "b": {}}, rows))
    assert "Drawn are 300 of 310 curves, evenly chosen; the means are over all." in page
    assert "&lt;b&gt;a&lt;/b&gt; &amp; $x$" in page
    assert "<b>" not in page
    assert "The loss over the training" in page
    assert "confirmation 0, seed 0, finished: 0.5 after 20 iterations" in page


def test_without_a_confirmation_the_curves_say_so():
    page = learning_curves.html(a_source({"a": SPACE}, [tried(0)]))
    assert "No confirmation has finished yet." in page
    assert "The loss over the training" not in page  # nobody reported one


def test_the_search_counts_what_it_leaves_out():
    rows = [tried(n, NASTY) for n in range(6)] + [tried(n, NASTY, state="pruned") for n in range(6, 9)]
    rows += [tried(9, NASTY, state="diverged", value=None), tried(10, NASTY, details={"same_as": 1})]
    page = search.html(a_source({NASTY: SPACE, "fixed": {}}, rows))
    assert "Only trials at full length are drawn and compared" in page
    assert "Nothing was searched, so nothing is shown, of fixed." in page
    assert "History: 6 trials at full length, and the best value so far (line)." in page
    assert "Left out: 3 stopped early, 1 diverged or failed, 1 repetitions." in page
    assert "No importances: they need 25 trials at full length that differ, and there are 6" in page
    assert "Parallel coordinates" in page
    assert "<b>" not in page


def test_a_large_search_has_contours_and_importances():
    page = search.html(a_source({"a": SPACE}, [tried(n) for n in range(30)]))
    assert "Contours: the metric, linear between the trials" in page
    assert "among the best fifth of 30 trials (PED-ANOVA, Optuna). Whiskers" in page
    assert "No importances" not in page


def test_one_full_length_is_nothing_to_compare():
    page = search.html(a_source({"a": SPACE}, [tried(0), tried(1, state="pruned")]))
    assert "There is one trial at full length: nothing to compare." in page
    assert "History" not in page


def test_many_arms_are_in_the_table_and_the_first_are_drawn(monkeypatch):
    monkeypatch.setattr(search, "MOST_ARMS", 2)
    names = [f"arm {n}" for n in range(search.MOST_ARMS + 2)]
    rows = [tried(n, name) for name in names for n in range(2)]
    page = search.html(a_source(dict.fromkeys(names, SPACE), rows))
    assert page.count("<h3>") == search.MOST_ARMS
    assert f"the first {search.MOST_ARMS} of {len(names)} searched arms" in page
    assert all(f">{name}<" in page for name in names)


def test_ten_thousand_trials_are_small():
    names = [f"arm {n}" for n in range(4)]
    curve = [{"iteration": 10.0 * n, "dice": 0.01 * n, "loss_total": 1.0} for n in range(1, 11)]
    rows = [
        tried(n // 4, names[n % 4], curve=curve, state=("finished", "pruned")[n // 4 % 2])
        for n in range(10_000)
    ]
    source = a_source(dict.fromkeys(names, SPACE), rows)
    before = time.process_time()
    pages = [section.html(source) for section in (learning_curves, search)]
    assert time.process_time() - before < 20  # two or three on an idle machine
    assert sum(map(len, pages)) < 2_000_000
    assert "Drawn are 300 of 10000 curves" in pages[0]
    assert "trials at full length, and the best value so far" in pages[1]


def pictures(*cases, **changes):
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 5:10] = 1
    values = {
        "image_id": "c/1", "slice_index": 4, "slices": 9, "judged": (200, 300), "image_HW": mask * 100,
        "truth_HW": mask, "prediction_HW": mask * 0, "labels_HW": None, **changes,
    }  # fmt: skip
    tested = [gallery.Picture(role="best", case_id=name, **values) for name in cases]
    return [*tested, gallery.Picture(**{**values, "role": "train", "case_id": "t", "image_id": "t/0"})]


@pytest.fixture
def confirmed(tmp_path):
    """A study with one confirmation of three cases, and the folder of its trial."""
    (tmp_path / "trials" / "key0").mkdir(parents=True)
    rows = [trial(0, arm=NASTY, phase="confirm", seed=1001)]
    cases = [case(name, value, arm=NASTY) for name, value in (("c1", 0.9), ("c2", 0.5))]
    cases.append(case("c3", 0.0, arm=NASTY, missed=True, hd95=96.0, class_name="<i>"))
    return a_source({NASTY: {}}, rows, cases, tmp_path), tmp_path / "trials" / "key0"


def test_the_gallery_shows_the_ledgers_cases(confirmed):
    source, folder = confirmed
    gallery.write(folder / gallery.GALLERY, pictures("c1", "c2", "c3"))
    page = gallery_section.html(source)
    assert "Best of 3 cases: c1, Dice 0.9 (lesion Dice 0.9, HD95 3 mm)." in page
    assert "Median of 3 cases: c2" in page
    assert "Worst of 3 cases: c3, Dice 0 (&lt;i&gt; missed, Dice 0, HD95 undefined)." in page
    assert "Slice number 4 of 9 slices (c/1), judged at 200 × 300 pixels." in page
    assert "Training image t/0" in page
    assert page.count("<figure>") == 4
    assert "<b>" not in page
    assert "<i>" not in page


def test_a_case_without_a_picture_is_told_in_words(confirmed):
    source, folder = confirmed
    gallery.write(folder / gallery.GALLERY, pictures("c1", "c3"))
    page = gallery_section.html(source)
    assert page.count("<figure>") == 3
    assert "Median of 3 cases: c2, Dice 0.5 (lesion Dice 0.5, HD95 3 mm). The trial left no picture" in page


def test_older_trials_show_what_they_left(confirmed):
    from PIL import Image

    source, folder = confirmed
    page = gallery_section.html(source)
    assert "No pictures: the folder of trial key0 holds neither gallery.npz nor samples.png." in page
    Image.new("RGB", (2000, 900)).save(folder / "samples.png")
    page = gallery_section.html(source)
    assert "Worst of 3 cases: c3" in page
    assert "Its trial is of an earlier release, which left evenly spaced images" in page
    assert '<img src="data:image/webp;base64,' in page


def test_a_damaged_gallery_is_said_to_be(confirmed):
    source, folder = confirmed
    (folder / gallery.GALLERY).write_bytes(b"half")
    page = gallery_section.html(source)
    assert "gallery.npz cannot be read" in page
    assert "Worst of 3 cases: c3" in page


def test_pictures_beyond_the_budget_are_left_out_by_name(confirmed, monkeypatch):
    source, folder = confirmed
    gallery.write(folder / gallery.GALLERY, pictures("c1", "c2", "c3"))
    monkeypatch.setattr(gallery_section, "BUDGET", 1000)
    page = gallery_section.html(source)
    assert "the pictures of these arms are left out: &lt;b&gt;a&lt;/b&gt; &amp; $x$." in page
    assert "<figure>" not in page
