"""`fetch` against a server on this machine: resuming, limits, checksums, refusals, no server at all."""

from __future__ import annotations

import hashlib
import http.server
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from search_spaces import UserError
from trainables.data.download import fetch

CONTENT = bytes(range(256)) * 400  # 102 400 bytes: several socket reads
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server does, and what it was asked."""

    url: str = ""
    ranges: bool = True
    content: bytes = CONTENT
    cut_after: int | None = None
    announces_length: bool = True
    asked: list[str | None] = field(default_factory=list)


class _Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, wanted = self.site, self.headers.get("Range")
        site.asked.append(wanted)
        if self.path != "/archive.tar":
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges else 0
        if start >= len(site.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if site.announces_length:
            self.send_header("Content-Length", str(len(site.content) - start))
        self.end_headers()
        self.wfile.write(site.content[start : site.cut_after])

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    site = Site()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}/archive.tar"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def get(tmp_path: Path) -> Callable[..., Path]:
    def call(url: str, *, md5: str = MD5, limit_bytes: int = 10**6) -> Path:
        return fetch(url, tmp_path / "cache" / "archive.tar", md5=md5, limit_bytes=limit_bytes, timeout=5.0)

    return call


def test_download_arrives_whole_and_is_reused(site: Site, get: Callable[..., Path]) -> None:
    first, second = get(site.url), get(site.url)
    assert first.read_bytes() == CONTENT
    assert second == first
    assert site.asked == [None]
    assert [path.name for path in first.parent.iterdir()] == ["archive.tar"]


def test_broken_download_is_continued(site: Site, get: Callable[..., Path], tmp_path: Path) -> None:
    site.cut_after = 70_000
    with pytest.raises(UserError, match="broke off after 70000 of 102400 bytes; run the same command again"):
        get(site.url)
    assert (tmp_path / "cache" / "archive.tar.part").read_bytes() == CONTENT[:70_000]
    assert not (tmp_path / "cache" / "archive.tar").exists()
    site.cut_after = None
    assert get(site.url).read_bytes() == CONTENT
    assert site.asked == [None, "bytes=70000-"]


def test_server_without_ranges_starts_again(site: Site, get: Callable[..., Path]) -> None:
    site.ranges, site.cut_after = False, 70_000
    with pytest.raises(UserError, match="broke off"):
        get(site.url)
    site.cut_after = None
    assert get(site.url).read_bytes() == CONTENT
    assert site.asked == [None, "bytes=70000-"]


def test_part_that_was_already_complete_is_accepted(
    site: Site, get: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "archive.tar.part").write_bytes(CONTENT)
    assert get(site.url).read_bytes() == CONTENT
    assert site.asked == ["bytes=102400-"]


def test_wrong_checksum_is_set_aside_and_the_next_call_starts_afresh(
    site: Site, get: Callable[..., Path], tmp_path: Path
) -> None:
    site.content = CONTENT[::-1]
    with pytest.raises(UserError, match=rf"must have the md5 checksum {MD5}.*set aside as .*\.wrong"):
        get(site.url)
    assert (tmp_path / "cache" / "archive.tar.wrong").read_bytes() == CONTENT[::-1]
    site.content = CONTENT
    assert get(site.url).read_bytes() == CONTENT
    assert site.asked == [None, None]


def test_existing_file_with_another_checksum_stays(
    site: Site, get: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "archive.tar").write_bytes(b"mine")
    with pytest.raises(UserError, match="exists with another md5 checksum"):
        get(site.url)
    assert (tmp_path / "cache" / "archive.tar").read_bytes() == b"mine"
    assert site.asked == []


def test_too_large_is_refused_before_the_first_byte(
    site: Site, get: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="has 102400 bytes, more than the 102399 allowed"):
        get(site.url, limit_bytes=102_399)
    assert list((tmp_path / "cache").iterdir()) == []


def test_too_large_without_announcement_is_refused_while_reading(
    site: Site, get: Callable[..., Path], tmp_path: Path
) -> None:
    site.announces_length = False
    with pytest.raises(UserError, match="sends more than the 50000 bytes allowed"):
        get(site.url, limit_bytes=50_000)
    assert (tmp_path / "cache" / "archive.tar.part").stat().st_size <= 50_000


def test_exactly_the_limit_passes_without_an_announced_length(site: Site, get: Callable[..., Path]) -> None:
    site.announces_length = False
    assert get(site.url, limit_bytes=102_400).read_bytes() == CONTENT


def test_missing_page_tells_what_to_do_by_hand(site: Site, get: Callable[..., Path], tmp_path: Path) -> None:
    url = site.url.replace("archive", "other")
    with pytest.raises(UserError, match="answered 404") as error:
        get(url)
    assert f"fetch {url} by hand, save it as {tmp_path / 'cache' / 'archive.tar'}" in str(error.value)


def test_no_server_tells_what_to_do_by_hand(
    get: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/archive.tar"
        with pytest.raises(UserError, match="cannot be reached") as error:
            get(url)
    assert f"save it as {tmp_path / 'cache' / 'archive.tar'} and run the same command again" in str(
        error.value
    )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["file:///archive.tar", "archive.tar"])
def test_only_http_is_fetched(get: Callable[..., Path], url: str) -> None:
    with pytest.raises(UserError, match="needs an http or https address"):
        get(url)
