"""A teacher: a copy of the network whose weights are the running average of the network's."""

from __future__ import annotations

import copy
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainables.method import Network, Output

RATE: Final = 0.01
"""The published share of the newest weights: 1 - 0.99 (SSL4MIS and WSL4MIS at a594da8)."""


class Teacher(nn.Module):
    """theta' <- m theta' + (1 - m) theta with m = min(1 - 1 / (t + 1), 1 - rate), t = 0, 1, 2, ...

    At t = 0 the teacher becomes the student; until t + 1 = 1 / rate it is the plain mean of all students so
    far, and after that it forgets with a half-life of about 0.7 / rate steps. It has no gradient and is in no
    optimiser. Source: Tarvainen and Valpola 2017, arXiv:1703.01780, eq. 2; the mean at first as in SSL4MIS.

    evaluates: what the teacher does with buffers, the running statistics of a batch normalisation.
    True: it stays in evaluation mode (no dropout) and takes the student's buffers with every update.
    False: it follows `train()`, where each batch is normalised by itself, and its buffers come from its own
    passes, as published.
    """

    def __init__(self, net: Network, rate: float, *, evaluates: bool) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).requires_grad_(False)
        self.rate, self.evaluates = rate, evaluates
        self.updates = 0  # on the host: a step waits for nothing
        self.train()

    def forward(self, image_BCHW: Float[Tensor, "B C H W"]) -> Output:
        with torch.no_grad():
            output: Output = self.net(image_BCHW)
        return output

    def train(self, mode: bool = True) -> Teacher:
        super().train(mode and not self.evaluates)
        return self

    @torch.no_grad()
    def update(self, student: Network) -> None:
        """One step towards the student; to be called once the optimiser has stepped."""
        newest = max(1.0 / (self.updates + 1), self.rate)
        torch._foreach_lerp_(list(self.net.parameters()), list(student.parameters()), newest)
        if self.evaluates:
            for mine, theirs in zip(self.net.buffers(), student.buffers(), strict=True):
                mine.copy_(theirs)
        self.updates += 1

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        self.updates = int(state)
