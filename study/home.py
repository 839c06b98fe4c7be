"""The folder that holds everything: datasets, cache, MLflow's database, and one folder per study."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from search_spaces import UserError, nearest
from study.results import Ledger
from study.spec import Study

SPEC = "spec.json"
LOCK = "driver.lock"
IDENTITY = "identity"


@dataclasses.dataclass(frozen=True, slots=True)
class Home:
    """Paths below one folder."""

    path: Path

    @classmethod
    def at(cls, text: str) -> Home:
        return cls(Path(text).expanduser().resolve())

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def datasets(self) -> Path:
        return self.path / "datasets"

    @property
    def networks(self) -> Path:
        return self.path / "pretrained"

    def study(self, name: str) -> StudyFolder:
        return StudyFolder(self.path / name)

    def studies(self) -> list[str]:
        """Names of the studies that were started here."""
        return sorted(p.parent.name for p in self.path.glob(f"*/{SPEC}"))

    def existing(self, name: str) -> StudyFolder:
        """The folder of a study that was started. Raises UserError for another name."""
        if name not in self.studies():
            known = ", ".join(self.studies()) or "none"
            raise UserError(
                f"No study {name!r} was started in {self.path}.{nearest(name, self.studies())} Started "
                f"there: {known}; start it with `python -m study.run {name}` or name another --home."
            )
        return self.study(name)

    def check_writable(self) -> None:
        """Raises UserError when nothing can be written here."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.path) as probe:
                probe.write(b"0" * 65536)
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            way_out = "free some space" if full else "make it writable"
            raise UserError(
                f"The home folder {self.path} must be writable, but: {error.strerror}; {way_out} or name "
                "another with --home (STUDY_HOME)."
            ) from error


@dataclasses.dataclass(frozen=True, slots=True)
class StudyFolder:
    """What is kept of one study."""

    path: Path

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.path / "ledger")

    def frozen(self) -> Study | None:
        """The study as it was started; None when it never was.

        Raises UserError for a folder of another version or a damaged file.
        """
        spec = self.path / SPEC
        if not spec.exists():
            return None
        try:
            study = Study.from_json(spec.read_text())
        except UserError as error:
            raise UserError(f"{spec}: {error}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{spec} cannot be read ({error}); restore it or use another --home.") from error
        if study.name != self.path.name:
            raise UserError(
                f"{spec} must be of the study {self.path.name!r}, but is of {study.name!r}; restore it or "
                "use another --home."
            )
        return study

    def freeze(self, study: Study) -> None:
        """Writes the definition, atomically."""
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / f".{SPEC}.{os.getpid()}"
        temporary.write_text(study.to_json())
        temporary.replace(self.path / SPEC)

    def identity(self) -> str:
        """By which servers know this folder wherever it is moved; made once, by the driver that holds it.

        Raises UserError for a damaged file.
        """
        path = self.path / IDENTITY
        if not path.exists():
            temporary = path.with_name(f".{IDENTITY}.{os.getpid()}")
            temporary.write_text(f"{uuid.uuid4().hex}\n")
            temporary.replace(path)
        text = path.read_text(errors="replace").strip()
        if not re.fullmatch("[0-9a-f]{32}", text):
            raise UserError(f"{path} must hold 32 hexadecimal digits, but is damaged; restore it.")
        return text

    def is_running(self) -> bool:
        """Is a driver alive on this study? Needs no right to write, and lookers do not see each other."""
        path = self.path / LOCK
        if not path.exists():
            return False
        with path.open("r") as handle:
            return not _flock(handle, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the study for this driver; the system lets go of it when the process dies, however it dies.

        Raises UserError while another driver lives.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("a+", errors="replace") as handle:
            # Tried a few times: a `status` that is looking holds the lock for some microseconds.
            if not any(_flock(handle, fcntl.LOCK_EX, pause) for pause in (0.02, 0.02, 0.0)):
                handle.seek(0)
                raise UserError(
                    f"Study {self.path.name!r} is being run by process {handle.read().strip()}; wait for it, "
                    "stop it, or use another --home."
                )
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield


def _flock(handle: IO[str], kind: int, pause: float = 0.0) -> bool:
    """Takes the lock, or waits `pause` seconds and returns False."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(pause)
        return False
    return True


def agree(frozen: Study, wanted: Study) -> None:
    """Raises UserError when a study's definition differs from the one that was started.

    The numbers of trials and replicates are targets and may grow.
    """
    old, new = _definition(frozen), _definition(wanted)
    changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if changed:
        shown = "; ".join(f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"Study {frozen.name!r} was started with another definition ({shown}{more}); give the same "
            "settings, or run the new ones beside it with --fork NAME or another --home."
        )


def _definition(study: Study) -> dict[str, object]:
    raw = study.to_dict()
    raw["search"] = {k: v for k, v in raw["search"].items() if k != "trials"}
    raw["replicates"] = {k: v for k, v in raw["replicates"].items() if k != "seeds"}
    del raw["question"]
    return dict(_flat(json.loads(json.dumps(raw)), ""))


def _flat(value: object, prefix: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(part, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for part in value:
            yield from _flat(part, f"{prefix}[{part.get('name', '')}]")
    else:
        yield prefix, value
