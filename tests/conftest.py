"""One thread for all that tests compute: their tensors are tiny, and other work may share the machine."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported, after this file
