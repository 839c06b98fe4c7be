"""Seeds that depend on their parts alone, in every process and on every machine."""

from __future__ import annotations

import hashlib


def stable_seed(*parts: str | int) -> int:
    """A 63-bit seed out of the parts (Python's own `hash` differs between processes)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
