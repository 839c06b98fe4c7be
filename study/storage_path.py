"""Where the trials of a study leave their files: the home, or a shared folder or object store of the user's.

That is a matter of the machines, not of the study's definition: it changes no result. So it is remembered
beside the definition, in the home, and without secrets: an address that holds some must be given again.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from search_spaces import UserError
from study.home import SPEC, StudyFolder
from study.masking import HIDDEN, masked, scrubbed
from trainables.store import Store, StoreAwayError

RECORD = "storage_path"
"""The file that names it, in the study's folder; there is none where it is the home itself."""

_OPTION = "--storage-path (STUDY_STORAGE_PATH)"


def of(folder: StudyFolder, given: str | None) -> Store:
    """The folder of all studies' trials and networks that a study was started with, or is to be.

    Raises UserError for an address that says nothing, and for another one than the study was started with.
    """
    started = _started_with(folder)
    if given:
        store = _named(given)
        if started is not None and store.shown() != Store.at(started).shown():
            raise UserError(_contradiction(folder, started, store))
        return store
    if started is not None and HIDDEN in started:
        raise UserError(
            f"The trials of study {folder.path.name!r} lie in {started}, whose secrets are not kept; give "
            f"that address again with {_OPTION}."
        )
    return Store.at(started or folder.path.parent)


def _named(text: str) -> Store:
    """Raises UserError for a path that depends on where the command is given."""
    if "://" in text:
        return Store.at(text)
    path = Path(text).expanduser()
    if not path.is_absolute():
        raise UserError(
            "--storage-path must be an absolute path or an address such as s3://BUCKET/PREFIX, but got "
            f"{text!r}."
        )
    return Store.at(path)


def remember(folder: StudyFolder, store: Store) -> None:
    """When the study is locked and before its definition is written.

    Raises UserError where another driver has started it elsewhere meanwhile.
    """
    started = _started_with(folder)
    if started is not None and store.shown() != Store.at(started).shown():
        raise UserError(_contradiction(folder, started, store))
    if _is_home(folder, store):
        (folder.path / RECORD).unlink(missing_ok=True)  # of a start that went no further
        return
    temporary = folder.path / f".{RECORD}.{os.getpid()}"
    temporary.write_text(masked(store.uri))
    temporary.replace(folder.path / RECORD)


def witness(folder: StudyFolder, store: Store) -> tuple[Store, str]:
    """The file by which a node of a cluster can tell that it sees what the driver sees: the definition."""
    place = store.child(folder.path.name)
    if not _is_home(folder, store):
        place.write(SPEC, (folder.path / SPEC).read_bytes())
    return place, SPEC


def _is_home(folder: StudyFolder, store: Store) -> bool:
    return store.uri == str(folder.path.parent)


def require_usable(store: Store) -> None:
    """Writes, reads and deletes a file there. Raises UserError where that fails, after some seconds."""
    name, content = f"probe-{uuid.uuid4().hex}", b"0" * 65536
    try:
        store.hasty().write(name, content)
        if store.hasty().read(name) != content:
            raise OSError("what was written there is not what is read")
        store.hasty().delete(name)
    except (OSError, StoreAwayError) as error:
        reason = error.reason if isinstance(error, StoreAwayError) else error.strerror or str(error)
        raise UserError(
            f"Trials must be able to write, read and delete files in {masked(store.uri)}, but: "
            f"{scrubbed(reason, store.uri)}; check {_OPTION}, and of an object store the bucket, the "
            "endpoint and the credentials (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and the rest)."
        ) from None
    except (ValueError, NotImplementedError) as error:
        reason = scrubbed(str(error).splitlines()[0], store.uri).rstrip(".")
        raise UserError(
            "--storage-path must be a folder or an address that pyarrow's filesystems take, such as "
            f"s3://BUCKET/PREFIX, but got {masked(store.uri)}: {reason}."
        ) from None


def _started_with(folder: StudyFolder) -> str | None:
    """The address as it was kept, or that of the home; None before the first start."""
    if not (folder.path / SPEC).exists():
        return None
    record = folder.path / RECORD
    return record.read_text() if record.exists() else str(folder.path.parent)


def _contradiction(folder: StudyFolder, started: str, store: Store) -> str:
    return (
        f"The trials of study {folder.path.name!r} lie in {started}, but --storage-path names "
        f"{masked(store.uri)}; give the first (or none, without secrets in it), or run the study anew with "
        "--fork NAME or another --home."
    )
