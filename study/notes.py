"""What MLflow's UI says about a study and its arms in words, as Markdown. Pure."""

from __future__ import annotations

from study import cards
from study.run_format import clean
from study.spec import Arm, Study


def of_study(question: str, metric: str, *, greater_is_better: bool) -> str:
    """Under the experiment's name: the question, what its runs are, and where to look."""
    judged, order = clean(f"test_{metric}"), "highest" if greater_is_better else "lowest"
    name = clean(metric)
    return f"""**{question}**

* A run at the top level is an **arm** of the study; the plus sign before its name opens its trials.
  `{judged}` is the arm's answer: the mean over the test cases, `{judged}_low` to `{judged}_high` with 95 %
  confidence.
* **search n** is a trial of the arm's search; **confirm seed s** trained the selected configuration again, on
  a fresh seed. `{name}` is their validation value ({order} is best), by which the search selects.
* *Sort* by `{judged}` compares arms, by `{name}` trials. Tick runs and press *Compare* to see them together.
* *Artifacts* of an arm: the answer (`answer.md`), learning curves (`curves`), pictures of best, median and
  worst cases (`samples`), the model (`model`). Those of a confirming trial: its own pictures.
"""


def of_arm(study: Study, arm: Arm) -> str:
    """On an arm's page: what it is given, and what its search may vary."""
    lines = [f"One arm of the study *{study.name}*: {study.question}", ""]
    lines.append(f"* Method: `{arm.method}` (`python -m study describe {arm.method}`)")
    lines.append(f"* Annotation: {cards.annotation(arm.annotation)}")
    lines += [f"* Fixed: `{name}` = {value}" for name, value in {**arm.settings, **arm.protocol}.items()]
    lines += [f"* Searched: `{name}` in `{domain}`" for name, domain in arm.search.items()]
    lines.append("* What was selected stands in the tags `study.selected.*`, the pictures under *Artifacts*.")
    return "\n".join(lines) + "\n"
