"""Weights and learning rates as functions of the trained fraction: pure, in [0, 1]."""

from __future__ import annotations

import math


def _clipped(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)


def sigmoid_ramp(progress: float, fraction: float = 1.0) -> float:
    """exp(-5 (1 - t)^2), from exp(-5) = 0.0067 (not 0) at t = 0 to 1 at t = 1, where it stays.

    `t = progress / fraction`: the ramp ends when `fraction` of the training is done, whatever its
    length, so that it also ends in a short trial. A fraction of 0 is a constant 1.
    Source: Laine and Aila 2017, arXiv:1610.02242, section 2.2.
    """
    if fraction == 0.0:
        return 1.0
    return math.exp(-5.0 * (1.0 - _clipped(progress / fraction)) ** 2)


def poly(progress: float, power: float = 0.9) -> float:
    """(1 - progress)^power, from 1 to 0. Source: Chen et al. 2018, arXiv:1606.00915, section 4.1."""
    return (1.0 - _clipped(progress)) ** power


def cosine(progress: float) -> float:
    """(1 + cos(pi progress)) / 2, from 1 to 0. Source: Loshchilov and Hutter 2017, arXiv:1608.03983."""
    return 0.5 * (1.0 + math.cos(math.pi * _clipped(progress)))
