"""Tables as Markdown and as LaTeX: what a name holds stays a name."""

import math

import pytest

from dashboards.grids import Cell, grid, latex_text, to_latex, to_markdown

TABLE = grid([{"arm": "a|b_*<i>", "dice": Cell("0.5", 0.5)}, {"arm": "[c]", "dice": Cell("–", math.nan)}])


def test_markdown():
    assert to_markdown(TABLE) == (
        "| arm | dice |\n| --- | ---: |\n| a\\|b\\_\\*\\<i\\> | 0.5 |\n| \\[c\\] | – |\n"
    )


def test_latex():
    assert to_latex(TABLE) == (
        "\\begin{tabular}{lr}\n\\toprule\narm & dice \\\\\n\\midrule\n"
        "a\\textbar{}b\\_{*}\\textless{}i\\textgreater{} & 0.5 \\\\\n{[}c{]} & -- \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("\\input{x}", "\\textbackslash{}input\\{x\\}"),
        ("100 % & $5 #1 ~ ^", "100 \\% \\& \\$5 \\#1 \\textasciitilde{} \\textasciicircum{}"),
        ("two\nlines", "two lines"),
    ],
)
def test_what_latex_would_obey(text, written):
    assert latex_text(text) == written


def test_a_table_without_rows_is_a_bug():
    with pytest.raises(ValueError, match="at least one row"):
        grid([])
