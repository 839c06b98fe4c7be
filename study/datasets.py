"""From the name or path of a data set to the open data set; phantoms are generated when first asked for."""

from __future__ import annotations

import logging
from pathlib import Path

from search_spaces import UserError, nearest
from study.home import Home
from study.spec import Data
from trainables.data import phantoms
from trainables.data.dataset import Dataset, open_dataset
from trainables.data.rules import require_possible
from trainables.trial import DataSource

log = logging.getLogger(__name__)


def absolute(name: str) -> str:
    """A path as it stays true in another working directory; the name of a data set as it is."""
    require_possible(Path(name))
    is_path = name.endswith(".parquet") or "/" in name
    return str(Path(name).expanduser().resolve()) if is_path else name


def locate(name: str, home: Home) -> Path:
    """The Parquet file of a data set. Raises UserError for an unknown name."""
    given = Path(absolute(name))
    if given.is_absolute():
        return given
    path = home.datasets / f"{name}.parquet"
    if path.exists():
        return path
    if name in phantoms.KINDS:
        log.info("Generating %s", name)
        home.datasets.mkdir(parents=True, exist_ok=True)
        phantoms.write(name, path)
        return path
    known = sorted({*phantoms.KINDS, *(p.stem for p in home.datasets.glob("*.parquet"))})
    raise UserError(
        f"There is no data set {name!r}.{nearest(name, known)} Known: {', '.join(known)}; or give the path "
        "of a Parquet file (`python -m study data import --help` makes one)."
    )


def open_data(data: Data, home: Home) -> tuple[Dataset, DataSource]:
    """The open data set and its identity. Raises UserError."""
    path = locate(data.dataset, home)
    dataset = open_dataset(path, cache=home.cache, size=data.size, merge_foreground=data.merge_foreground)
    if not 0 <= data.fold < len(dataset.folds):
        raise UserError(
            f"data.fold must name one of the {len(dataset.folds)} folds (0 .. {len(dataset.folds) - 1}) of "
            f"{dataset.name}, but got {data.fold}."
        )
    source = DataSource(
        path=str(path),
        fingerprint=dataset.fingerprint,
        size=data.size,
        merge_foreground=data.merge_foreground,
    )
    return dataset, source
