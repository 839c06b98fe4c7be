"""The three kinds of search dimension. Standard library only: importable anywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Float:
    """A real interval [low, high]; `log` searches its logarithm uniformly."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"`low < high` must hold between finite bounds, but got {self}.")
        if self.log and self.low <= 0:
            raise ValueError(f"`low > 0` must hold for `log=True`, but got {self}.")

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and self.low <= value <= self.high  # NaN is in no interval, infinity beyond every one
        )

    def corners(self) -> tuple[Value, ...]:
        return (self.low, self.high)

    def __str__(self) -> str:
        return f"{self.low:g} .. {self.high:g}" + (" (log)" if self.log else "")


@dataclass(frozen=True, slots=True)
class Int:
    """The integers low, low + step, ..., high."""

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1 or not self.low < self.high or (self.high - self.low) % self.step:
            raise ValueError(f"`high` must be `low` plus a multiple of a positive `step`, but got {self}.")

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and self.low <= value <= self.high
            and (value - self.low) % self.step == 0
        )

    def corners(self) -> tuple[Value, ...]:
        return (self.low, self.high)

    def __str__(self) -> str:
        return f"{self.low} .. {self.high}" + (f" step {self.step}" if self.step > 1 else "")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few named options."""

    options: tuple[Value, ...]

    def __post_init__(self) -> None:
        if len(self.options) < 2 or len(set(self.options)) != len(self.options):
            raise ValueError(f"A choice needs two or more distinct options, but got {self.options!r}.")

    def __contains__(self, value: object) -> bool:
        # 1 == True in Python; a switch must not accept a count, nor a count a switch.
        return any(type(value) is type(option) and value == option for option in self.options)

    def corners(self) -> tuple[Value, ...]:
        return self.options

    def __str__(self) -> str:
        return " | ".join(map(str, self.options))


Domain = Float | Int | Choice
