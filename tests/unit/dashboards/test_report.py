"""The page: whole, self-contained, safe against any name, telling what is missing, small when large."""

import hashlib
import re
import time
from base64 import b64encode
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dashboards import publication, report
from dashboards.sections import cases, question
from dashboards.source import read
from search_spaces import UserError
from study.home import StudyFolder
from tests.unit.dashboards.studies import a_case, a_source, a_trial

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"[:90]
VOID = {"meta", "input", "br", "img", "hr", "link"}


class Page(HTMLParser):
    """Tags with their attributes, and the text of a page; fails on a tag that is closed out of order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_of(source):
    return Page(report.page(source))


@pytest.fixture(scope="module")
def whole():
    trials = [a_trial("c", 7, phase="search", state="failed", failure="bug", reason="boom", value=None)]
    return a_source({"a": 0.2, "b": 0.7, "c": 0.71}, classes=2, further=trials, budgets=(1, 5, 5))


@pytest.fixture(scope="module")
def text(whole):
    return report.page(whole)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_sections_in_their_order(page):
    orders = [section.ORDER for section in report.found().values()]
    assert orders == sorted(orders)
    assert len(set(orders)) == len(orders)
    ids = [attributes["id"] for attributes in page.named("section")]
    own = ["question", "arms", "annotation_time", "pairs", "cases", "failures", "reproduce"]
    assert [name for name in ids if name in own] == own
    assert [a["href"] for a in page.named("a")] == [f"#{name}" for name in ids]


def test_the_page_needs_nothing_else(text, page):
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                assert value.startswith(("#", "data:")), (tag, name, value)
    assert not page.named("link")
    assert "@import" not in text
    assert any("default-src 'none'" in attributes.get("content", "") for attributes in page.named("meta"))


def test_only_the_page_s_own_script_may_run(text):
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    assert f"script-src 'sha256-{b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()}'" in text


def test_every_id_is_there_once(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_the_answer_is_in_words_and_in_numbers(page):
    text = page.text
    assert "c has the highest mean Dice of 3 arms" in text
    assert "b is better than a by" in text
    assert "boom" in text
    assert "class 2, Dice" in text
    assert "python -m study report toy" in text
    assert "p3: 0.24 and 0.74" in text  # a point's tooltip


@pytest.mark.parametrize("classes", [1, 2])
def test_names_are_text_everywhere(classes, tmp_path):
    failed = [a_trial(HOSTILE, 9, state="failed", reason=HOSTILE, failure="bug", value=None)]
    source = a_source(
        {HOSTILE: 0.2, f"$x_{{{HOSTILE[:50]}": 0.7, "{{ 7 * 7 }}": 0.4},
        question=f"Is {HOSTILE} better?", classes=classes, further=failed, budgets=(1, 5, 9),
    )  # fmt: skip
    scored = (replace(case, case_id=HOSTILE + case.case_id, class_name=HOSTILE) for case in source.cases)
    source = replace(source, cases=tuple(scored))
    page = page_of(source)
    assert len(page.named("script")) == 1
    assert not page.named("img")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert f"Is {HOSTILE} better?" in page.text
    assert "{{ 7 * 7 }}" in page.text
    publication.publish(source, tmp_path)
    assert "<script" not in (tmp_path / "report.md").read_text().replace("\\<", "")
    assert "<" not in (tmp_path / "arms.tex").read_text()


def test_a_study_with_no_finished_trial_says_what_is_missing():
    source = a_source({"a": -1, "b": -1})
    text = page_of(source).text
    assert "There is no answer yet" in text
    assert "a: 0 of 2 confirmation replicates have finished, 2 not started." in text
    assert "Nothing is confirmed yet, so there is no curve to draw." in text
    assert "No two arms have scored the same test case yet" in text
    assert "No trial has started." in text


def test_a_study_whose_every_trial_failed_says_why():
    trials = [a_trial("a", state="failed", failure="bug", reason="boom", value=None)]
    assert (
        "There is no answer: no trial of toy could finish: of 1, 1 bug (boom)."
        in page_of(a_source({"a": -1}, further=trials)).text
    )


def test_a_caveat_about_single_runs_is_not_folded_away():
    source = a_source({f"arm {n}": 0.1 * n for n in range(8)}, replicates=1)
    shown, _, rest = question.html(source).partition("<details>")
    folded, _, after = rest.partition("</details>")
    assert "All 28 sentences" in folded
    assert "Every arm was trained once" in shown + after
    assert "Every arm was trained once" not in folded


def test_ten_thousand_trials_are_a_small_page_soon(tmp_path):
    curve = [{"iteration": i, "dice": 0.5 + i / 100, "loss_total": 1.0} for i in range(1, 11)]
    further = [
        a_trial(
            "ab"[n % 2], n, phase="search", value=n % 97 / 97, curve=curve, started=float(n),
            parameters={"learning_rate": 1e-3 + n % 89 / 1e4}, state="pruned" if n % 3 else "finished",
        )
        for n in range(10_000)
    ]  # fmt: skip
    source = a_source({"a": 0.2, "b": 0.7}, cases=200, further=further)
    report.page(a_source({"a": 0.5}))  # imports and fonts
    started = time.process_time()
    report.write(source, tmp_path / "report.html")
    assert time.process_time() - started < 5
    assert (tmp_path / "report.html").stat().st_size < 5_000_000


def test_many_points_are_thinned_and_it_says_so(monkeypatch):
    monkeypatch.setattr(cases, "_MOST_POINTS", 30)
    drawn = cases.html(a_source({"a": 0.2, "b": 0.3, "c": 0.4}, replicates=1, cases=50))
    assert "Of each pair 10 cases are drawn" in drawn
    assert drawn.count('class="tip"') == 30
    assert "in 50 cases" in drawn


def test_more_pairs_than_panels_are_told(monkeypatch):
    monkeypatch.setattr(cases, "_MOST_PAIRS", 2)
    drawn = cases.html(a_source({"a": 0.2, "b": 0.3, "c": 0.4}, replicates=1))
    assert drawn.count("<svg") == 2
    assert "1 more pairs are in the table above" in drawn


def test_publish_leaves_the_page_and_the_tables(whole, tmp_path):
    path = publication.publish(whole, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "report.html"
    names = {file.name for file in path.parent.iterdir()}
    assert names == {"report.html", "report.md", "arms.tex", "pairs.tex"}
    text = (path.parent / "report.md").read_text()
    for title in ("# toy", "## Arms", "## By structure", "## Pairs", "## Failures", "## How to reproduce"):
        assert f"{title}\n" in text
    assert "\\toprule" in (path.parent / "pairs.tex").read_text()


def test_one_arm_has_no_table_of_pairs(tmp_path):
    publication.publish(a_source({"a": 0.5}), tmp_path)
    assert not (tmp_path / "pairs.tex").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(whole, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^The report must be written to .*; name another with --output\.$"):
        publication.publish(whole, tmp_path / "file")


def test_an_old_page_stays_when_the_new_one_cannot_be_made(whole, tmp_path, monkeypatch):
    path = publication.publish(whole, tmp_path)
    before = path.read_text()
    monkeypatch.setattr(report, "page", lambda source: "\ud800")  # no UTF-8
    with pytest.raises(UnicodeEncodeError):
        report.write(whole, path)
    assert path.read_text() == before
    assert [file for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_source_reads_the_ledger(tmp_path):
    source = a_source({"a": 0.2, "b": 0.7})
    folder = StudyFolder(tmp_path / "toy")
    folder.freeze(source.spec)
    for trial in source.trials:
        folder.ledger.append(trial, [case for case in source.cases if case.key == trial.key])
    again = read(folder)
    assert again.answer == source.answer
    assert (again.trials, again.cases) == (source.trials, source.cases)


def test_a_ledger_cut_in_half_is_one_sentence(tmp_path):
    folder = StudyFolder(tmp_path / "toy")
    folder.freeze(a_source({"a": 0.2}).spec)
    trial = a_trial("a")
    folder.ledger.append(trial, [a_case(trial, 0, 0.5)])
    for file in (tmp_path / "toy" / "ledger").rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"^The ledger file .*\.$"):
        read(folder)
