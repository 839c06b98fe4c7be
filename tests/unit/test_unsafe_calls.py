"""Which calls of the source could run foreign code or leave a folder, with arguments: there is no other.

Whoever adds one reads here what makes it safe, and adds it to the list with its arguments.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from study.home import Home
from tests.fuzz.test_ledgers import trial
from tests.unit.study.conftest import a_study
from tests.unit.trainables import toy_data
from trainables import saved
from trainables.store import Store

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dashboards", "study", "trainables", "search_spaces")

WATCHED_MODULES = (
    "pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "tarfile", "zipfile",
    "subprocess", "runpy", "ctypes", "code", "codeop", "pty", "multiprocessing", "http.server",
    "socketserver", "wsgiref",
    "xmlrpc", "webbrowser", "torch.hub", "torch.package", "torch.jit", "mlflow.pyfunc", "mlflow.pytorch",
    "mlflow.sklearn",
)  # fmt: skip
WATCHED_CALLS = (
    "torch.load", "torch.export.load", "numpy.load", "numpy.fromfile", "numpy.memmap",
    "numpy.loadtxt", "numpy.genfromtxt",
    "pandas.read_pickle", "shutil.unpack_archive", "shutil.rmtree", "os.system", "os.popen",
    "importlib.import_module", "urllib.request.urlopen", "ray.init", "eval", "exec", "compile", "__import__",
    "ast.literal_eval", "os.chmod",
)  # fmt: skip
WATCHED_STARTS = ("os.exec", "os.spawn", "os.posix_spawn", "pickle.", "joblib.")
WATCHED_METHODS = {
    "extract",
    "extractall",
    "extractfile",
    "load_model",
    "read_pickle",
    "bind",
    "listen",
    "unpack_archive",
}

ALLOWED = {
    # Tensors and plain values only, after a digest of all bytes was compared.
    "trainables/saved.py": ["torch.load(io.BytesIO(content), map_location=device, weights_only=True)"],
    # Arrays of numbers: an object array, which is a pickle, raises.
    "trainables/data/dataset.py": [
        "np.load(folder / 'images.npy', mmap_mode='r', allow_pickle=False)",
        "np.load(folder / 'masks.npy', mmap_mode='r', allow_pickle=False)",
        "np.load(scribbles, mmap_mode='r', allow_pickle=False)",
        "np.load(folder / 'spacing_mm.npy', allow_pickle=False)",
        "np.load(folder / 'stored_masks.npy', mmap_mode='r', allow_pickle=False)",
        "np.load(folder / 'stored_shapes.npy', allow_pickle=False)",
        "np.load(folder / 'stored_spacing_mm.npy', allow_pickle=False)",
    ],
    "trainables/gallery.py": ["np.load(path, allow_pickle=False)"],
    "trainables/data/arrays.py": [
        "np.load(path, allow_pickle=False)",
        # Its directory is read, and headers of members; nothing is unpacked.
        "zipfile.is_zipfile(path)",
        "zipfile.BadZipFile('it is no whole zip archive')",
        "zipfile.ZipFile(path)",
    ],
    # The file that the line before wrote, of which every member was looked at: none is a pickle.
    "trainables/conversions.py": ["torch.export.load(path)", "zipfile.ZipFile(path)"],
    # Members are read into memory, regular ones of bounded size; nothing is unpacked onto the disk.
    "trainables/data/importers/msd.py": [
        "tarfile.open(source, 'r:')",
        "tarfile.open(source, 'r:')",
        "archive.extractfile(handle)",
    ],
    # A checksum is compared with one that stands in the source.
    "trainables/data/download.py": [
        "urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)"
    ],
    # Modules of the package itself, by names that a listing of its folder gave.
    "trainables/discovery.py": [
        "importlib.import_module('trainables.method')",
        "importlib.import_module(f'trainables.methods.{name}')",
    ],
    "trainables/networks/__init__.py": ["importlib.import_module(f'trainables.networks.{name}')"],
    "trainables/data/importers/base.py": [
        "importlib.import_module(f\"trainables.data.importers.{kind.replace('-', '_')}\")"
    ],
    "trainables/flips/__init__.py": [
        "importlib.import_module(f'trainables.flips.{name}')",
        "importlib.import_module(f'trainables.flips.{name}')",
    ],
    "dashboards/report.py": ["importlib.import_module(f'dashboards.sections.{name}')"],
    "study/discovery.py": ["importlib.import_module(f'study.studies.{name}')"],
    # Callbacks of SQLAlchemy, no sockets.
    "study/storage.py": [
        "sqlalchemy.event.listen(storage.engine, 'connect', _quick_and_safe)",
        "sqlalchemy.event.listen(storage.engine, 'handle_error', _tell_a_full_disk)",
        "sqlalchemy.event.listen(storage.engine, 'handle_error', _tell_outages_apart)",
    ],
    # This program itself, with its own arguments, when one of them holds a password; no shell.
    "study/masking.py": ["os.execve(sys.executable, command, {**os.environ, **variables})"],
    # For SIGTERM.
    "trainables/trainable.py": ["self.requests.listen()"],
    # MLflow's server and this program itself, without a shell; probes and pages on 127.0.0.1 alone.
    "study/pages.py": [
        "subprocess.Popen(self.command, env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, "
        "stdout=log, stderr=subprocess.STDOUT, start_new_session=True)",
        "urllib.request.urlopen(f'{self.url}/', timeout=5)",
        "probe.bind((HOST, port))",
        "probe.bind((HOST, 0))",
    ],
    # This program again, without a shell, at the other end of a pair of sockets without a name, which nobody
    # else can write to: what it says is unpickled.
    "study/tracking_process.py": [
        "Connection(int(sys.argv[1]))",
        "Connection(os.dup(self._socket.fileno()))",
        "subprocess.Popen([sys.executable, '-m', __name__, str(theirs.fileno())], "
        "pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, "
        "env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))})",
    ],
    "study/ui.py": [
        "urllib.request.urlopen(f'{page.url}/api/2.0/mlflow/experiments/get-by-name?{query}', timeout=10)"
    ],
    # On 127.0.0.1; answers only to this machine's names, and to requests that change nothing.
    "study/optuna_ui.py": [
        "make_server(HOST, port, application, server_class=_Server, handler_class=_Quiet)"
    ],
    # Literals only: it evaluates no name and calls nothing.
    "study/overrides.py": ["ast.literal_eval(text)"],
    # On loopback (tests/ray/test_network.py); what is removed is Tune's scratch folder in the study's own.
    "study/engine.py": [
        "ray.init(**options)",
        "shutil.rmtree(scratch, ignore_errors=True)",
        "shutil.rmtree(scratch, ignore_errors=True)",
    ],
}


def calls_of(text: str) -> Iterator[str]:
    """Every watched call of a source, as Python writes it."""
    tree = ast.parse(text)
    names = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_watched(_dotted(node.func, names)):
            yield ast.unparse(node)


def _imported(tree: ast.AST) -> dict[str, str]:
    """Local name -> what it was imported as."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return "?"


def _is_watched(name: str) -> bool:
    return (
        name in WATCHED_CALLS
        or name.startswith((*WATCHED_STARTS, *(f"{module}." for module in WATCHED_MODULES)))
        or ("." in name and name.rpartition(".")[2] in WATCHED_METHODS)
    )


def test_no_other_unsafe_call_exists() -> None:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            calls = list(calls_of(path.read_text()))
            if calls:
                found[path.relative_to(ROOT).as_posix()] = sorted(calls)
    assert found == {path: sorted(calls) for path, calls in ALLOWED.items()}


def test_files_of_a_run_are_written_by_their_owner_alone(tmp_path: Path) -> None:
    """And are no programs: definitions, ledgers, networks, data sets and their cache."""
    before = os.umask(0o022)
    try:
        Home(tmp_path).study("toy").freeze(a_study())
        Home(tmp_path).study("toy").ledger.append(trial(0))
        saved.write(Store.at(tmp_path), "checkpoint.pt", {}, "key")
        toy_data.opened(tmp_path)
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        forbidden = 0o022 if path.is_dir() else 0o133
        assert path.stat().st_mode & forbidden == 0, path


def test_every_load_states_that_it_unpickles_nothing() -> None:
    """Also where the list above is changed without thought."""
    for calls in ALLOWED.values():
        for call in calls:
            assert not call.startswith("torch.load") or "weights_only=True" in call
            assert not call.startswith("np.load") or "allow_pickle=False" in call
            assert "shell=True" not in call
            assert ".extractall" not in call


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load('x')", "from torch import load\nload('x')",
        "import torch as t\nt.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)", "import pickle\npickle.loads(b'')",
        "from pickle import Unpickler as U\nU(f).load()", "import joblib\njoblib.load('x')",
        "import yaml\nyaml.load(f)", "import tarfile\ntarfile.open('x').extractall('y')",
        "def f(archive):\n archive.extractall()", "import zipfile\nzipfile.ZipFile('x')",
        "import subprocess\nsubprocess.run('x', shell=True)", "import os\nos.system('x')",
        "eval('x')", "exec('x')",
        "import shutil\nshutil.unpack_archive('x')", "import mlflow\nmlflow.pyfunc.load_model('x')",
        "import mlflow.pytorch\nmlflow.pytorch.load_model('x')", "s.bind(('0.0.0.0', 1))",
        "import pandas as pd\npd.read_pickle('x')", "import importlib\nimportlib.import_module(name)",
    ],
)  # fmt: skip
def test_an_unsafe_call_is_found(text: str) -> None:
    assert list(calls_of(text)) != []


@pytest.mark.parametrize("text", ["net.eval()", "json.loads('x')", "np.save('x', y)", "re.compile('x')"])
def test_an_ordinary_call_is_not(text: str) -> None:
    assert list(calls_of(f"import json, re\nimport numpy as np\n{text}")) == []
