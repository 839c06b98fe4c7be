"""Fetching one public archive: resumable, limited in size, checked; a failure says what to do by hand."""

from __future__ import annotations

import hashlib
import http.client
import logging
import urllib.error
import urllib.request
from pathlib import Path

from search_spaces import UserError

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20


def fetch(url: str, target: Path, *, md5: str, limit_bytes: int, timeout: float) -> Path:
    """`target`, holding the bytes of `url` with this `md5`; an earlier download is checked and reused.

    What has arrived lies in `<target>.part` and is continued by the next call (HTTP Range; a server without
    it starts again). `timeout` (seconds) is for connecting and for each wait for data. Nothing in place is
    overwritten; a finished file with another checksum is set aside as `<target>.wrong`.
    Raises UserError for no connection, a refusal, a broken connection, more than `limit_bytes`, or another
    checksum.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(
            f"A download needs an http or https address, and {url!r} is none; give one or a local path."
        )
    if target.exists():
        if _md5(target) != md5:
            raise UserError(
                f"{target} exists with another md5 checksum than {md5}; move it away and run the same "
                "command again."
            )
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    _receive(url, part, target, limit_bytes, timeout)
    found = _md5(part)
    if found != md5:
        aside = target.with_name(f"{target.name}.wrong")
        part.replace(aside)
        raise UserError(
            f"{url} must have the md5 checksum {md5}, but what arrived has {found} and was set aside as "
            f"{aside}; run the same command again, or use another address."
        )
    return part.replace(target)


def _receive(url: str, part: Path, target: Path, limit_bytes: int, timeout: float) -> None:
    """Appends to `part` until the server's announced length is there."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    by_hand = f"fetch {url} by hand, save it as {target} and run the same command again"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # nothing is missing: the checksum decides
        raise UserError(f"{url} answered {error.code} {error.reason}; {by_hand}.") from error
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{url} cannot be reached ({_reason(error)}); {by_hand}.") from error
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0
        announced = response.headers.get("Content-Length")
        expected = have + int(announced) if announced else None
        if expected is not None and expected > limit_bytes:
            raise UserError(
                f"{url} has {expected} bytes, more than the {limit_bytes} allowed here; check the address."
            )
        logger.info("fetching %s: %s of %s bytes are here", url, have, expected or "an unknown number of")
        received = _append(response, part, have, limit_bytes, url, by_hand)
    if expected is not None and received < expected:
        raise UserError(
            f"{url} broke off after {received} of {expected} bytes; run the same command again to "
            f"continue, or {by_hand}."
        )


def _append(
    response: http.client.HTTPResponse, part: Path, have: int, limit_bytes: int, url: str, by_hand: str
) -> int:
    """Writes what arrives behind the `have` bytes in place; the size of the file afterwards."""
    with part.open("ab" if have else "wb") as file:
        while True:
            try:
                chunk = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise UserError(
                    f"{url} broke off after {have} bytes ({_reason(error)}); run the same command again to "
                    f"continue, or {by_hand}."
                ) from error
            if not chunk:
                return have
            have += len(chunk)
            if have > limit_bytes:
                raise UserError(
                    f"{url} sends more than the {limit_bytes} bytes allowed here; check the address."
                )
            file.write(chunk)


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
