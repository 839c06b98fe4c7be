"""Methods are found by file name; listing them is cheap and a wrong file says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces import UserError
from trainables import discovery, methods
from trainables.method import AbstractMethod

METHOD = """
from trainables.method import AbstractMethod
class {name}(AbstractMethod):
    def init(self, net): ...
    def losses(self, net, batch, state, progress): ...
    def after_step(self, net, state, progress): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A second folder of methods; what is imported from it is forgotten afterwards."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("trainables.methods."):
            del sys.modules[name]


def test_names_are_the_files() -> None:
    here = Path(methods.__path__[0])
    files = sorted(path.stem for path in here.glob("*.py") if path.stem != "__init__")
    assert discovery.names() == files
    assert {"full_supervision", "partial_cross_entropy", "summary_statistics"} <= set(files)


def test_listing_and_refusing_do_not_load_torch() -> None:
    program = """
import sys
from trainables import discovery
assert discovery.names()
try:
    discovery.load("no_such_method")
except ValueError:
    pass
sys.exit("torch" in sys.modules)
"""
    root = Path(discovery.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize("name", discovery.names())
def test_loads_the_one_method_of_the_file(name: str) -> None:
    cls = discovery.load(name)
    assert issubclass(cls, AbstractMethod)
    assert cls.__module__ == f"trainables.methods.{name}"


def test_unknown_method_names_the_near_one_and_all() -> None:
    with pytest.raises(
        UserError, match=r"no method 'partial_crossentropy'.* Did you mean 'partial_cross_entropy'\?"
    ):
        discovery.load("partial_crossentropy")
    with pytest.raises(UserError, match=r"Methods: .*full_supervision, .*summary_statistics"):
        discovery.load("zzz")


@pytest.mark.parametrize("name", ["", "__init__", "../method", "full_supervision.py"])
def test_a_name_is_never_a_path(name: str) -> None:
    with pytest.raises(UserError, match="no method"):
        discovery.load(name)


def test_a_new_file_is_a_new_method(folder: Path) -> None:
    (folder / "brand_new.py").write_text(METHOD.format(name="BrandNew"))
    assert "brand_new" in discovery.names()
    assert discovery.load("brand_new").__name__ == "BrandNew"


@pytest.mark.parametrize(
    ("stem", "source"),
    [
        ("two_of_them", METHOD.format(name="One") + METHOD.format(name="Two")),
        ("none_of_them", "from trainables.methods.partial_cross_entropy import PartialCrossEntropy\n"),
    ],
)
def test_a_file_defines_exactly_one_method(folder: Path, stem: str, source: str) -> None:
    (folder / f"{stem}.py").write_text(source)
    with pytest.raises(TypeError, match=rf"methods/{stem}\.py must define exactly one method"):
        discovery.load(stem)


def test_an_error_inside_a_method_is_not_hidden(folder: Path) -> None:
    (folder / "broken.py").write_text("import module_that_does_not_exist\n")
    with pytest.raises(ModuleNotFoundError, match="module_that_does_not_exist"):
        discovery.load("broken")
