"""ACDC cardiac MR with expert scribbles, in the slices that the WSL4MIS repository packs."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from search_spaces import UserError
from trainables.data.arrays import read_arrays, unit_to_uint8
from trainables.data.importers import acdc, base
from trainables.data.nifti import class_ids
from trainables.data.parquet import Row
from trainables.data.preparation import NEAREST, STORED, for_metadata
from trainables.data.rules import UNLABELLED

FOLDER = "ACDC_training_slices"
OWN_UNLABELLED = 4
NAME = re.compile(r"(patient\d{3})_(frame\d\d)_slice_(\d{1,3})\.h5")

Volume = tuple[str, str]
"""Case id, frame."""


def read(source: Path | str, *, size: tuple[int, int] | None = None) -> base.ImportedDataset:
    """Every slice in `source` or `source`/ACDC_training_slices, with its scribbles.

    Image, mask and scribble are resized to `size` (height, width; 256x256 where None) by nearest neighbour,
    aspect not kept, and lie as stored. Intensities are the files' (per volume, minimum to 99th percentile);
    they do not tell the spacing. Folds: see `acdc.folds`.
    Raises UserError for a source in another layout or with missing slices and, while the rows are walked, for
    a broken or mismatched file.
    """
    volumes = _volumes(base.existing_folder(source))
    height, width = size or acdc.SIZE
    return base.ImportedDataset(
        name="wsl4mis",
        class_names=acdc.CLASS_NAMES,
        rows=(
            _row(volume, number, path, (height, width))
            for volume, slices in volumes.items()
            for number, path in slices.items()
        ),
        splits=acdc.folds({case: _pathology(case) for case, _ in volumes}),
        metadata={
            "source": "ACDC (MICCAI 2017) with expert scribbles, as packed by github.com/HiLab-git/WSL4MIS",
            "licence": "images and masks CC BY-NC-SA 4.0 as third parties state it, scribbles without "
            "a stated one; check the owners' pages",
            "citation": "Bernard et al., IEEE TMI 37(11):2514-2525, 2018, doi:10.1109/TMI.2018.2837502; "
            "scribbles: Valvano et al., IEEE TMI 40(8):1990-2001, 2021; files: Luo et al., MICCAI 2022",
            "image_scaling": "per volume, minimum to percentile 99, as packed",
            "orientation": "as stored, not re-oriented",
            "slices": "all",
            "resize": f"{height}x{width}, nearest neighbour (order 0) for all three, aspect not kept",
            **for_metadata(
                intensities=f"percentile:{acdc.UPPER_PERCENTILE:g}",
                orientation=STORED,
                size=(height, width),
                resampling=NEAREST,
            ),
        },
    )


def _volumes(source: Path) -> dict[Volume, dict[int, Path]]:
    """(Case, frame) -> slice number -> file, sorted."""
    for folder in (source, source / FOLDER):
        paths = sorted(folder.glob("patient*_slice_*.h5"))
        if paths:
            break
    else:
        raise UserError(
            f"A WSL4MIS source must hold patient001_frame01_slice_0.h5, ... (in it or in {FOLDER}/), and "
            f"{source} has none; give the folder data/ACDC of that repository."
        )
    volumes: dict[Volume, dict[int, Path]] = defaultdict(dict)
    for path in paths:
        match = NAME.fullmatch(path.name)
        if match is None:
            raise UserError(
                f"Slices must be named like patient001_frame01_slice_0.h5, and {path} is not; rename or "
                "remove it."
            )
        volumes[match[1], match[2]][int(match[3])] = path
    for (case, frame), slices in volumes.items():
        base.refuse_gaps(f"{case} {frame} of {folder}", list(slices))
    return {volume: dict(sorted(slices.items())) for volume, slices in volumes.items()}


def _pathology(case: str) -> str:
    """The files do not tell it, but the patients 1-20, 21-40, ... share theirs."""
    return f"block {acdc.block(case)}"


def _row(volume: Volume, number: int, path: Path, size: tuple[int, int]) -> Row:
    case, frame = volume
    arrays = read_arrays(path, ("image", "label", "scribble"), num_axes=2)
    scribble = class_ids(arrays["scribble"], OWN_UNLABELLED + 1, f"the scribble (4 = unlabelled) of {path}")
    ids = class_ids(arrays["label"], len(acdc.CLASS_NAMES), f"the label of {path}")
    drawn = np.where(scribble == OWN_UNLABELLED, np.uint8(UNLABELLED), scribble)
    return Row(
        case_id=case,
        frame=frame,
        slice_index=number,
        image=base.nearest_pixels(unit_to_uint8(arrays["image"], f"the image of {path}"), size),
        mask=base.nearest_pixels(ids, size),
        scribble=base.nearest_pixels(drawn, size),
        group=acdc.group(case),
    )
