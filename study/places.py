"""New files and folders that appear whole or not at all, and never in the place of others."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from search_spaces import UserError


def refuse_existing(path: Path) -> None:
    """Raises UserError where something is there already."""
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already, and nothing is overwritten; name another place.")


@contextlib.contextmanager
def draft_for(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, to write into; it is gone afterwards, whatever happened.

    Raises UserError where that cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unfinished-") as private:
            draft = Path(private) / "draft"
            draft.mkdir()  # unlike the folder around it, readable to whom the umask says
            yield draft
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror or error}); free some space, or name another place."
        ) from error


def appear(draft: Path, target: Path) -> None:
    """Gives what was written its name. Raises UserError where something took that meanwhile."""
    refuse_existing(target)
    draft.rename(target)
