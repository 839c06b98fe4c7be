"""`study predict`: an exported model on files or folders of images; answers appear whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from search_spaces import UserError
from study.places import appear, draft_for, refuse_existing
from trainables import image_files
from trainables.data.rules import require_possible
from trainables.exported import Model
from trainables.image_files import ImageFile, ending
from trainables.inference import BATCH, Predictor

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What was predicted."""

    files: int
    slices: int
    device: str
    seconds: float
    others: int
    """Files of the folder that are no images."""
    off_size: int
    """Slices of another size than the network was trained at, predicted at their own."""


def predict(
    model: Model,
    source: Path,
    target: Path,
    *,
    device: str = "auto",
    batch: int | None = None,
    intensities: str | None = None,
    orientation: str | None = None,
) -> Done:
    """Predicts the file or folder `source` into `target`, which must not exist.

    intensities, orientation: see `trainables.data.preparation`; None takes what the model says. Raises
    UserError, before anything is written, for files that cannot be predicted.
    """
    started = time.perf_counter()
    for path in (source, target):
        require_possible(path)
    where = torch.device(_device(device))
    if batch is not None and batch < 1:
        raise UserError(f"--batch-size must be 1 or more, but got {batch}.")
    paths, others = _found(source)
    refuse_existing(target)
    _refuse_other_format(source, target)
    preparation = image_files.told(model.preparation, intensities, orientation)
    files = image_files.opened(paths, preparation, batch or BATCH)
    # What is wrong with the last one is said before the first one is predicted.
    slices = sum(file.check() for file in files)
    counter = _Counter(model)
    label = f"{model.description.study}, {model.description.arm}, trial {model.description.key}"
    with _progress(slices) as advance:
        masks_of = counter.counting(model.predictor(where, batch), advance)
        _write(files, source, target, masks_of, label)
    return Done(
        files=len(paths), slices=slices, device=str(where), seconds=time.perf_counter() - started,
        others=others, off_size=counter.off_size,
    )  # fmt: skip


def _device(name: str) -> str:
    if name not in DEVICES:
        raise UserError(f"--device must be one of {', '.join(DEVICES)}, but got {name!r:.60}.")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("--device cuda needs a GPU that PyTorch sees, and there is none; use --device cpu.")
    return "cuda" if there and name == "auto" else name.replace("auto", "cpu")


def _found(source: Path) -> tuple[list[Path], int]:
    """The images of a file or folder, sorted, and how many other files lie in the folder."""
    if source.is_dir():
        inside = sorted(p for p in source.iterdir() if p.is_file() and not p.name.startswith("."))
        images = [path for path in inside if ending(path) is not None]
        if not images:
            raise UserError(
                f"A folder must hold images (.nii.gz, .nii, .png, .parquet), and {source} holds none; check "
                "the path."
            )
        return images, len(inside) - len(images)
    if not source.exists():
        raise UserError(f"There is no file or folder {source}; check the path.")
    if ending(source) is None:
        raise UserError(
            f"Images must be .nii.gz, .nii, .png or .parquet, and {source} is none of these; convert it."
        )
    return [source], 0


def _refuse_other_format(source: Path, target: Path) -> None:
    wanted = None if source.is_dir() else ending(source)
    if wanted is not None and (ending(target) or "")[:4] != wanted[:4]:
        raise UserError(
            f"The answer to {source.name} has its format, so OUTPUT must end in {wanted}, but is {target}."
        )


class _Counter:
    """Counts slices as they are predicted."""

    def __init__(self, model: Model) -> None:
        self.own = None if model.description.size is not None else model.description.trained_shape
        self.off_size = 0

    def counting(
        self, predictor: Predictor, advance: Callable[[], None]
    ) -> Callable[[Sequence[np.ndarray]], Iterable[np.ndarray]]:
        def masks_of(images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
            for ids in predictor.masks(images):
                self.off_size += self.own is not None and ids.shape != self.own
                advance()
                yield ids

        return masks_of


class _progress:  # noqa: N801
    """A bar on stderr, where that is a terminal."""

    def __init__(self, total: int) -> None:
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TextColumn("slices"),
            TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> Callable[[], None]:
        self.bar.start()
        return lambda: self.bar.advance(self.task)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def _write(
    files: Sequence[ImageFile], source: Path, target: Path, masks_of: image_files.MasksOf, label: str
) -> None:
    """Into a private folder beside the target, which gets its name when everything is there."""
    with draft_for(target) as draft:

        def place(path: Path) -> Path:
            return draft / (path.name if source.is_dir() else target.name)

        for file in files:
            file.predict(masks_of, place, label)
        appear(draft if source.is_dir() else draft / target.name, target)


def sentences(done: Done, target: Path, model: Model) -> list[str]:
    """What the terminal says of a prediction."""
    files = "1 file" if done.files == 1 else f"{done.files} files"
    slices = "1 slice" if done.slices == 1 else f"{done.slices} slices"
    out = [f"Wrote {target}: {slices} of {files}, on {done.device} in {done.seconds:.1f} s."]
    if done.off_size:
        height, width = model.description.trained_shape
        out.append(
            f"{done.off_size} of the slices are not {height} x {width}, as those of the training were; they "
            "were predicted at their own size, at which nothing was measured."
        )
    if done.others:
        out.append(f"Left out: {done.others} other files of the folder.")
    return out
