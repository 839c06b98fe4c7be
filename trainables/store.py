"""Where trials and networks lie: a folder or an object store, whose files appear whole or not at all.

One way for both: pyarrow's filesystems. An object of S3 or Google's storage is there when its upload is
complete. Anywhere else a file is written under another name first and then moved; in a local folder it is on
the disk before that. A service that is away is waited for, a local disk is not: its errors are what they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from pyarrow import fs

from search_spaces import UserError

PATIENCE_SECONDS = 600.0
"""How long a service may be away, in one call, before StoreAwayError."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0

_WHOLE_OBJECTS = ("s3", "gcs")
"""Filesystems that show an object when all of it is there, and the one before until then."""

_ATTEMPTS, _SECONDS_TO_CONNECT, _SECONDS_OF_SILENCE = 2, 2, 3
"""Of one request to S3. With Arrow's own ten attempts a server that keeps silent costs 100 s a call."""

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class StoreAwayError(UserError):
    """The service did not answer, or refused, for as long as was waited; `reason`: what it said."""

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence, reason)
        self.sentence, self.reason = sentence, reason

    def __str__(self) -> str:
        return self.sentence


@dataclasses.dataclass(frozen=True, slots=True)
class Store:
    """A folder of files, by its absolute path or by any URI that pyarrow's filesystems take.

    Cheap to make, copy and pickle; each process connects once. Credentials come from the URI or from where
    the service's clients look for them (AWS_ACCESS_KEY_ID ...), so its text may be a secret: `shown` is not.
    """

    uri: str = dataclasses.field(repr=False)
    patience: float = PATIENCE_SECONDS
    """Seconds that a call waits for a service that is away."""

    @classmethod
    def at(cls, place: Path | str) -> Store:
        """Of a folder's path, a file:// address or another URI."""
        text = str(place)
        if text.startswith("file://"):
            text = unquote(text.removeprefix("file://").partition("?")[0])
        return cls(text if "://" in text else str(Path(text).absolute()))

    @classmethod
    def of(cls, file: Path | str) -> tuple[Store, str]:
        """The folder and the name of a file."""
        base, question, options = _parts(str(file))
        folder, _, name = base.rpartition("/")
        return cls.at(f"{folder}{question}{options}"), unquote(name) if "://" in base else name

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri

    @property
    def name(self) -> str:
        """Of the folder itself."""
        last = _parts(self.uri)[0].rstrip("/").rpartition("/")[2]
        return last if self.is_local else unquote(last)

    def child(self, *names: str) -> Store:
        """A folder within."""
        return dataclasses.replace(self, uri=self.file("/".join(names)))

    def file(self, name: str) -> str:
        """The URI, or the path, of a file: what `of` takes apart."""
        base, question, options = _parts(self.uri)
        return f"{base.rstrip('/')}/{name if self.is_local else quote(name)}{question}{options}"

    def shown(self, name: str = "") -> str:
        """The address of a file or of the folder, without user, password and options."""
        base = _parts(self.uri)[0].rstrip("/")
        place = base if self.is_local else unquote(re.sub(r"^([^/]+//).*@", r"\1", base, flags=re.DOTALL))
        return f"{place}/{name}" if name else place

    def hasty(self) -> Store:
        """The same folder, without patience."""
        return dataclasses.replace(self, patience=0.0)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None when there is none. Raises StoreAwayError."""

        def read(system: fs.FileSystem, path: str) -> bytes | None:
            with (
                contextlib.suppress(FileNotFoundError),
                system.open_input_stream(path, compression=None) as stream,  # it would unpack *.gz
            ):
                content: bytes = stream.read()
                return content
            return None

        return self._waited(read, name)

    def exists(self, name: str) -> bool:
        """Raises StoreAwayError."""
        return self._waited(lambda system, path: system.get_file_info(path).type == fs.FileType.File, name)

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Makes or replaces a file: whoever reads sees the old one or the new one, whole, also after a kill
        at any moment. Raises StoreAwayError."""
        self._waited(lambda system, path: _write(system, path, content), name)

    def delete(self, name: str) -> None:
        """No matter whether it is there. Raises StoreAwayError."""

        def delete(system: fs.FileSystem, path: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                system.delete_file(path)

        self._waited(delete, name)

    def move(self, name: str, other: str) -> None:
        """Renames a file, over another if there is one. Raises StoreAwayError."""
        self._waited(lambda system, path: system.move(path, f"{path.removesuffix(name)}{other}"), name)

    def names(self) -> list[str]:
        """Of the files and folders that lie here. Raises StoreAwayError."""

        def look(system: fs.FileSystem, path: str) -> list[str]:
            found = system.get_file_info(fs.FileSelector(path.rstrip("/"), allow_not_found=True))
            return sorted(one.base_name for one in found)

        return self._waited(look, "")

    def sweep(self, name: str) -> None:
        """Deletes what processes left that were killed while they wrote this file."""
        for left in self.names():
            if left.startswith(f"{name}."):
                self.delete(left)

    def _waited(self, call: Callable[[fs.FileSystem, str], Result], name: str) -> Result:
        """What the call returns, which may be repeated: an outage may begin before its end was heard of."""
        began, pause, told = time.monotonic(), _FIRST_PAUSE_SECONDS, False
        while True:
            try:
                system, folder = _place(self.uri)
                result = call(system, f"{folder}/{name}")
            except OSError as error:
                if self.is_local:
                    raise
                reason = self._reason(error)
            else:
                if told:
                    log.warning("%s answers again after %.0f s.", self.shown(), time.monotonic() - began)
                return result
            if time.monotonic() - began >= self.patience:
                raise StoreAwayError(
                    f"{self.shown()} must answer, but did not for {self.patience / 60:.0f} minutes "
                    f"({reason}); every finished trial is in the ledger, so bring it back and give the same "
                    "command again.",
                    reason,
                )
            if not told:
                log.warning("%s does not answer (%s); it is waited for.", self.shown(), reason)
                told = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _reason(self, error: OSError) -> str:
        """What Arrow says, without the address, which it repeats where it cannot be parsed."""
        text = (str(error).replace(self.uri, self.shown()).strip() or type(error).__name__).splitlines()[0]
        text = re.sub(r" \(Request ID: \w*\)", "", text).rstrip(".")
        return text if len(text) <= 300 else f"{text[:300]}..."


def _parts(uri: str) -> tuple[str, str, str]:
    """The address, "?" and its options; a path has none, whatever characters it holds."""
    return uri.partition("?") if "://" in uri else (uri, "", "")


def _place(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem and the folder's path in it. Raises ValueError or NotImplementedError for an address
    that no filesystem takes, OSError where the service must be asked for more and does not answer."""
    if "://" not in uri:
        return _LOCAL, uri.rstrip("/")
    base, question, options = _parts(uri)
    scheme, _, rest = base.partition("://")
    authority, _, path = rest.partition("/")
    system, top = _connected(f"{scheme}://{authority}/{question}{options}")
    folder = f"{top.rstrip('/')}/{unquote(path)}" if top else unquote(path)
    return system, folder.rstrip("/")


_LOCAL = fs.LocalFileSystem()


@functools.lru_cache(maxsize=16)
def _connected(uri: str) -> tuple[fs.FileSystem, str]:
    """One client a process for each service, which is what holds its connections."""
    system, top = fs.FileSystem.from_uri(uri)
    if system.type_name != "s3":
        return system, top
    rebuild, (options,) = system.__reduce__()
    ours: dict[str, Any] = {
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        "connect_timeout": _SECONDS_TO_CONNECT,
        "request_timeout": _SECONDS_OF_SILENCE,
    }
    if "allow_delayed_open" in options:  # pyarrow 19: one request for a small object instead of three
        ours["allow_delayed_open"] = True
    return rebuild({**options, **ours}), top


def _write(system: fs.FileSystem, path: str, content: bytes | memoryview) -> None:
    if system.type_name in _WHOLE_OBJECTS:
        _put(system, path, content)
        return
    system.create_dir(path.rpartition("/")[0], recursive=True)
    temporary = f"{path}.{platform.node()}-{os.getpid()}"
    if system.type_name == "local":
        _write_local(Path(temporary), Path(path), content)
    else:
        _put(system, temporary, content)
        system.move(temporary, path)


def _write_local(temporary: Path, path: Path, content: bytes | memoryview) -> None:
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name without its content
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # what it holds of a full disk
        raise


def _put(system: fs.FileSystem, path: str, content: bytes | memoryview) -> None:
    """Closed by hand: `with` closes, and thereby publishes, what an error left half written."""
    stream = system.open_output_stream(path, compression=None)
    stream.write(content)
    stream.close()
