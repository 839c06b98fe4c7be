"""Damaged copies of files, and what no damage may do: hang, eat the memory, write elsewhere, show a trace."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from search_spaces import UserError

SHORT, LONG = 40, 3000
ROUNDS = [SHORT, pytest.param(LONG, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
"""How many damaged copies a test reads: few in every run of the tests, many with `-m slow`."""

MEMORY = 3 * 2**30
"""Bytes that reading one small file may take, beyond what the process holds already."""

_forbidden: Callable[[str, tuple[Any, ...]], None] | None = None
_WRITES = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
}
_NEVER = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class", "socket.connect")


def damaged(content: bytes, rounds: int, seed: int = 0) -> Iterator[bytes]:
    """Copies of `content`: a bit flipped, cut, a part zeroed, repeated, left out or replaced by noise."""
    chance = Random(seed)
    while rounds:
        copy = _damaged(content, chance)
        if copy != content:
            rounds -= 1
            yield copy


def _damaged(content: bytes, chance: Random) -> bytes:
    at, length = chance.randrange(len(content)), chance.choice((1, 4, 64, 1024))
    part, rest = content[at : at + length], content[at + length :]
    match chance.randrange(8):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + bytes(len(part)) + rest
        case 2:
            return content[:at] + part + part + rest
        case 3:
            return content[:at] + chance.randbytes(len(part)) + rest
        case 4:
            return content[:at] + rest
    return flipped(content, 8 * at + chance.randrange(8))  # the likeliest damage, and the hardest to see


def flipped(content: bytes, bit: int) -> bytes:
    """`content` with one bit turned over."""
    at = bit // 8
    return content[:at] + bytes([content[at] ^ (1 << bit % 8)]) + content[at + 1 :]


@contextlib.contextmanager
def guarded(home: Path) -> Iterator[None]:
    """Nothing inside may write outside `home`, start a program, unpickle a class or take gigabytes."""
    global _forbidden
    home = home.resolve()

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_NEVER):
            raise AssertionError(f"{event} {arguments}")
        if event == "open" and _reads(arguments):
            return
        if event == "open" or event in _WRITES:
            places = {
                "os.rename": (2, 3),
                "os.link": (2, 3),
                "os.remove": (1,),
                "os.rmdir": (1,),
                "os.mkdir": (2,),
            }
            for which, folder in enumerate(places.get(event, (-1,))):
                relative_to = arguments[folder] if 0 <= folder < len(arguments) else -1
                _require_below(home, event, arguments[which], relative_to)

    limit = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limit[1]))
    _forbidden = check
    try:
        yield
    finally:
        _forbidden = None
        resource.setrlimit(resource.RLIMIT_AS, limit)


def _reads(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return not set(mode or "r") & set("wax+") and not (flags or 0) & 0o1103  # written, created, cut


def _require_below(home: Path, event: str, path: Any, relative_to: int) -> None:
    if isinstance(path, int) or "__pycache__" in str(path) or str(path).startswith("/dev/null"):
        return
    base = Path.cwd() if relative_to == -1 else Path(f"/proc/self/fd/{relative_to}").readlink()
    where = base / (path.decode() if isinstance(path, bytes) else path)
    if not where.parent.resolve().is_relative_to(home.parent if where == home else home):
        raise AssertionError(f"{event} {where}, outside {home}")


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _forbidden is not None:
        _forbidden(event, arguments)


sys.addaudithook(_hook)  # for ever: it cannot be taken away, only be given nothing to do


def outcome(read: Callable[[], Any], home: Path) -> tuple[Any, str | None]:
    """(what `read` gave, None) or (None, the sentence of its UserError); anything else is a failure."""
    try:
        with guarded(home):
            return read(), None
    except UserError as error:
        sentence = str(error)
    require_sentence(sentence)
    return None, sentence


def require_sentence(text: str) -> None:
    """One line that ends like a sentence and is short enough to be read."""
    assert "\n" not in text, text
    assert text.endswith((".", "?")), text
    assert "Traceback" not in text
    assert len(text) < 2000, text
