"""A dataset as trials see it: decoded once per node into plain arrays, then memory-mapped by everybody."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import tempfile
import tokenize
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from search_spaces import UserError
from trainables.data import rules
from trainables.data.parquet import ParquetDataset
from trainables.data.rules import UNLABELLED, Pixels
from trainables.data.splits import Parts

log = logging.getLogger(__name__)

CACHE_VERSION = 1
"""Part of every fingerprint: raise it when decoding changes what it produces."""


_DAMAGE = (
    OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError, SyntaxError, EOFError,
    MemoryError, tokenize.TokenError,
)  # fmt: skip
"""What json and numpy raise for a file that was changed after it was decoded."""

LONGEST_SIDE = 16_384
"""Pixels that images may be resized to."""


@dataclass(frozen=True)
class Split:
    """Row indices, int64, sorted; no case and no duplicate group lies in two parts."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class StoredMasks:
    """The masks of a resized data set as its file holds them, one after the other."""

    pixels: np.ndarray
    """uint8, all masks flattened in the order of the rows."""
    shapes: np.ndarray
    """int64 [N, 2]: height and width of each."""
    spacing_mm: np.ndarray
    """float32 [N, 3], of the stored grids."""

    def masks(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        starts = np.concatenate([[0], self.shapes.prod(axis=1).cumsum()])
        return [self.pixels[starts[row] : starts[row + 1]].reshape(self.shapes[row]) for row in rows]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """N slices of one shape. The NHW arrays are read-only uint8 memory maps, shared between processes."""

    name: str
    """The file's name without its ending."""
    fingerprint: str
    """Hex digest of pixels, masks, scribbles, ids, classes, spacing, splits and both options of opening."""
    class_names: tuple[str, ...]
    """Index = class id; 0 is the background."""
    images_NHW: np.ndarray
    masks_NHW: np.ndarray
    scribbles_NHW: np.ndarray | None
    """Class id, or 255 where nobody drew."""
    image_ids: tuple[str, ...]
    """Unique: "<case>/<frame>/<slice>", or "<case>/<slice>" where the data have no frames."""
    case_ids: tuple[str, ...]
    volume_ids: tuple[str, ...]
    """Case and frame: what a 3-D score is computed over."""
    slice_index: np.ndarray
    """int32 [N], position along the volume."""
    spacing_mm: np.ndarray
    """float32 [N, 3]: row, column, between slices, of the arrays as they stand here; NaN where unknown."""
    stored: StoredMasks | None = None
    """Where the data were resized: what predictions are scored against, see `truths`."""
    folds: tuple[Split, ...]
    """At least one; fold 0 is the default split."""
    fold_names: tuple[str, ...]
    """As the file's splits name them; no part of the fingerprint."""
    metadata: Mapping[str, str]
    """The file's own: source, licence, citation and the like."""

    @property
    def num_images(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        _, height, width = self.images_NHW.shape
        return height, width

    def truths(self, rows: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Masks [H', W'] of the rows at the size at which the file holds them, and their spacing in mm.

        A prediction is judged there, whatever size the network worked at: otherwise a smaller network's
        image would have an easier truth.
        """
        if self.stored is None:
            return list(self.masks_NHW[rows]), self.spacing_mm[rows]
        return self.stored.masks(rows), self.stored.spacing_mm[rows]


def resize_ids(ids_HW: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Class ids at another size: each pixel gets the nearest one's."""
    if ids_HW.shape == shape:
        return ids_HW
    import cv2  # heavy, and never needed by data of the right size

    return np.asarray(cv2.resize(ids_HW, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT))


def resize_intensities(image_HW: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A grey image at another size, by area averaging: how images come to the size that networks work at."""
    if image_HW.shape == shape:
        return image_HW
    import cv2  # heavy, and never needed by data of the right size

    return np.asarray(cv2.resize(image_HW, shape[::-1], interpolation=cv2.INTER_AREA))


def open_dataset(
    path: Path, *, cache: Path, size: tuple[int, int] | None = None, merge_foreground: bool = False
) -> Dataset:
    """Opens a Parquet file through a cache of decoded arrays, `cache / fingerprint`.

    The first opening on a node decodes and checks every row; later ones recognise the unchanged file by
    its size and time of change. `size` (height, width) resizes images by area averaging, masks and
    scribbles to the nearest pixel, and scales the spacing. `merge_foreground` makes one class of all
    but the background. Raises UserError for a file that breaks a rule of the format (see
    `trainables.data.rules`), a split that leaks, or rows of several shapes without `size`.
    """
    if size is not None and not (min(size) >= 1 and max(size) <= LONGEST_SIDE):
        raise UserError(
            f"A size must be height x width of 1 to {LONGEST_SIDE} pixels each, but got {size[0]}x{size[1]}."
        )
    rules.require_file(path)
    options: dict[str, Any] = {
        "size": None if size is None else list(size),
        "merge_foreground": merge_foreground,
    }
    if size is not None:
        options["scored"] = "as stored"  # part of the fingerprint, since scores depend on it
    receipt_file = cache / "receipts" / f"{_receipt_key(path, options)}.json"
    receipt = _valid_receipt(receipt_file, path, cache)
    if receipt is None:
        source = ParquetDataset(path)
        stamp = None if source.split_file is None else _stamp(source.split_file)
        folds = source.folds()
        receipt = {
            "splits": stamp,
            "metadata": source.metadata,
            "fold_names": list(folds),
            "fingerprint": _decode(source, list(folds.values()), cache, size, options),
        }
        _write_whole(receipt_file, json.dumps(receipt))
    folder = cache / receipt["fingerprint"]
    try:
        stored = _load(folder)
        if stored.fingerprint != folder.name:
            raise ValueError("its index is of another data set")
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"The decoded data set {folder} is damaged ({reason}); delete that folder, and the same command "
            "decodes it again."
        ) from error
    return dataclasses.replace(
        stored, name=path.stem, metadata=receipt["metadata"], fold_names=tuple(receipt["fold_names"])
    )


def _stamp(path: Path) -> list[Any]:
    """Changes when the file does; costs no reading."""
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def _receipt_key(path: Path, options: Mapping[str, Any]) -> str:
    text = json.dumps([CACHE_VERSION, _stamp(path), options])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _valid_receipt(file: Path, path: Path, cache: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        receipt: dict[str, Any] = json.loads(file.read_text())
        if "fold_names" not in receipt:  # from before names, and before further families of folds, were read
            return None
        splits, fingerprint = receipt["splits"], receipt["fingerprint"]
        if splits is not None and not (Path(splits[0]).is_file() and _stamp(Path(splits[0])) == splits):
            return None
        whole = re.fullmatch("[0-9a-f]{32}", fingerprint) and isinstance(receipt["metadata"], dict)
        return receipt if whole and (cache / fingerprint).is_dir() else None
    except _DAMAGE:
        log.warning("The receipt %s is damaged: the data set is decoded again.", file)
        return None


def _write_whole(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    draft.write_text(text)
    draft.replace(file)


def _decode(
    source: ParquetDataset,
    folds: Sequence[Parts],
    cache: Path,
    size: tuple[int, int] | None,
    options: Mapping[str, Any],
) -> str:
    """Writes the arrays into a private folder, then renames it; whoever renames first wins the race."""
    shape = _common_shape(source) if size is None else size
    fold_rows = [
        {part: np.flatnonzero(np.isin(source.case_ids, cases)).tolist() for part, cases in parts.items()}
        for parts in folds
    ]
    log.info("decoding %s: %d images of %d x %d", source.path, len(source.image_ids), *shape)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".decoding-") as private:
        folder = Path(private) / "arrays"
        folder.mkdir()
        pixels_digest = _write_arrays(source, folder, shape, options)
        index = _index(source, fold_rows, bool(options["merge_foreground"]))
        spacing = (source.spacing_mm * _scale(source, shape)).astype(np.float32)
        np.save(folder / "spacing_mm.npy", spacing)
        if size is not None:
            np.save(folder / "stored_shapes.npy", np.asarray(source.shapes, np.int64))
            np.save(folder / "stored_spacing_mm.npy", source.spacing_mm.astype(np.float32))
        content = json.dumps([CACHE_VERSION, options, index, spacing.tolist(), pixels_digest])
        fingerprint = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
        (folder / "index.json").write_text(json.dumps(index | {"fingerprint": fingerprint}))
        try:
            folder.rename(cache / fingerprint)
        except OSError:
            if not (cache / fingerprint).is_dir():
                raise
    return fingerprint


def _common_shape(source: ParquetDataset) -> tuple[int, int]:
    sizes = source.sizes()
    shape = next(iter(sizes))
    if len(sizes) > 1:
        listed = [f"{height}x{width} ({count} images)" for (height, width), count in sizes.items()]
        raise UserError(
            f"{source.path} holds images of {len(sizes)} sizes: {', '.join(listed[:5])}"
            f"{', ...' if len(sizes) > 5 else ''}; choose one with --set size=HxW, "
            f"for example --set size={shape[0]}x{shape[1]}."
        )
    return shape


def _scale(source: ParquetDataset, shape: tuple[int, int]) -> np.ndarray:
    scale = np.ones((len(source.shapes), 3))
    scale[:, :2] = source.shapes / np.array(shape)
    return scale


def _index(source: ParquetDataset, folds: list[dict[str, list[int]]], merge: bool) -> dict[str, Any]:
    return {
        "class_names": ["background", "foreground"] if merge else list(source.class_names),
        "case_ids": source.case_ids,
        "volume_ids": source.volume_ids,
        "image_ids": source.image_ids,
        "slice_index": source.slice_index.tolist(),
        "folds": folds,
    }


def _write_arrays(
    source: ParquetDataset, folder: Path, shape: tuple[int, int], options: Mapping[str, Any]
) -> str:
    """Streams images.npy, masks.npy and, where there are any, scribbles.npy and stored_masks.npy; a digest.

    The digest is of the stored pixels, before resizing: it does not depend on a library's interpolation.
    """
    digest = hashlib.blake2b(digest_size=16)
    scribbled = False
    merge, resized = bool(options["merge_foreground"]), options["size"] is not None
    names = ("images", "masks", "scribbles", "stored_masks")
    with ExitStack() as stack:
        images, masks, scribbles, stored = (
            stack.enter_context((folder / f"{name}.npy").open("wb")) for name in names
        )
        for file in (images, masks, scribbles):
            _write_header(file, (len(source.image_ids), *shape))
        _write_header(stored, (int(source.shapes.prod(axis=1).sum()),))
        for pixels in source.pixels():
            digest.update(json.dumps([*pixels.image.shape, pixels.scribble is not None]).encode())
            for array in pixels:
                digest.update(b"" if array is None else array.tobytes())
            scribbled |= pixels.scribble is not None
            image, mask, scribble = _transformed(pixels, shape, merge)
            images.write(image.tobytes())
            masks.write(mask.tobytes())
            scribbles.write(scribble.tobytes())
            if resized:
                stored.write(_merged(pixels.mask, merge).tobytes())
    for name, wanted in (("scribbles", scribbled), ("stored_masks", resized)):
        if not wanted:
            (folder / f"{name}.npy").unlink()
    return digest.hexdigest()


def _merged(mask: np.ndarray, merge: bool) -> np.ndarray:
    return (mask > 0).astype(np.uint8) if merge else mask


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    # Written front to back, not through a memory map: a full disk is then an error, not a dead process.
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _transformed(
    pixels: Pixels, shape: tuple[int, int], merge: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, mask, scribble = pixels
    mask = _merged(mask, merge)
    if scribble is None:
        scribble = np.full(mask.shape, UNLABELLED, np.uint8)
    if merge:
        scribble = np.where(scribble == UNLABELLED, scribble, scribble > 0).astype(np.uint8)
    if image.shape == shape:
        return image, mask, scribble
    return resize_intensities(image, shape), resize_ids(mask, shape), resize_ids(scribble, shape)


@lru_cache(maxsize=16)
def _load(folder: Path) -> Dataset:
    """A decoded folder; its name says its content, so it never changes. The file's names are not in it."""
    index = json.loads((folder / "index.json").read_text())
    scribbles = folder / "scribbles.npy"
    return Dataset(
        name="",
        fingerprint=index["fingerprint"],
        class_names=tuple(index["class_names"]),
        images_NHW=np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
        masks_NHW=np.load(folder / "masks.npy", mmap_mode="r", allow_pickle=False),
        scribbles_NHW=np.load(scribbles, mmap_mode="r", allow_pickle=False) if scribbles.is_file() else None,
        image_ids=tuple(index["image_ids"]),
        case_ids=tuple(index["case_ids"]),
        volume_ids=tuple(index["volume_ids"]),
        slice_index=np.array(index["slice_index"], np.int32),
        spacing_mm=np.load(folder / "spacing_mm.npy", allow_pickle=False),
        stored=_load_stored(folder),
        folds=tuple(
            Split(**{part: np.array(rows, np.int64) for part, rows in fold.items()})
            for fold in index["folds"]
        ),
        fold_names=(),
        metadata={},
    )


def _load_stored(folder: Path) -> StoredMasks | None:
    if not (folder / "stored_masks.npy").is_file():
        return None
    return StoredMasks(
        pixels=np.load(folder / "stored_masks.npy", mmap_mode="r", allow_pickle=False),
        shapes=np.load(folder / "stored_shapes.npy", allow_pickle=False),
        spacing_mm=np.load(folder / "stored_spacing_mm.npy", allow_pickle=False),
    )
