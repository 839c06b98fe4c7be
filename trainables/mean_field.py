"""Mean-field inference in a dense CRF whose labelled pixels are known: every pixel asks all the others.

The CRF weighs a unary cost U_c(i), in nat, against pairs: unlike labels at i and j cost w(i, j). Mean field
looks for the product of distributions Q(i) that is nearest to the CRF's, by updates of all pixels at once,

    Q(i) <- softmax_c(-U_c(i) + sum_j w(i, j) Q_c(j)).

Such parallel updates need not lower the free energy in every step, as updates of one pixel after the other
would; where they come to rest, the others do as well.

Source: Kraehenbuehl and Koltun 2011, "Efficient inference in fully connected CRFs with Gaussian edge
potentials" (arXiv:1210.5644), algorithm 1 for Potts penalties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from trainables.bilateral import pair_sums
from trainables.pairwise import Image, Kernel
from trainables.terms import Labels, Probabilities, full_precision, labelled, one_hot

Message = Callable[[Probabilities], Probabilities]
"""Q to sum_j w(i, j) Q_c(j), w with zeros on its diagonal."""


@torch.no_grad()
def mean_field(
    unary_BKHW: Probabilities, labels_BHW: Labels, message: Message, iterations: int
) -> Probabilities:
    """Q after so many updates, from softmax(-U); at labelled pixels the one-hot label, also on the way.

    unary_BKHW is U in nat, the negative logarithm of a probability up to a constant of each pixel. In float32
    where less is given. No gradient.
    """
    unary_BKHW = full_precision(unary_BKHW)
    label_BKHW = one_hot(labels_BHW, unary_BKHW.shape[1]).to(unary_BKHW.dtype)
    known_B1HW = labelled(labels_BHW).unsqueeze(1)
    q_BKHW = torch.where(known_B1HW, label_BKHW, (-unary_BKHW).softmax(1))
    for _ in range(iterations):
        q_BKHW = torch.where(known_B1HW, label_BKHW, (message(q_BKHW) - unary_BKHW).softmax(1))
    return q_BKHW


@torch.no_grad()
def normalised_message(image_BCHW: Image, kernels: Sequence[Kernel]) -> Message:
    """The message of w(i, j) = sum_m weight_m n_m(i) k_m(i, j) n_m(j), n_m(i) = (1 + sum_j k_m(i, j))^(-1/2).

    k_m is a Gaussian of weight 1 and both sums are over j != i. So each kernel says about its weight to a
    pixel, in nat, however many are near and alike; to a pixel without any it says nothing. The 1 in n_m is
    the pixel itself, which the usual implementation counts too.
    What it is asked for must sum to 1 over the classes. Raises ValueError for several image channels.
    """
    image_BCHW = full_precision(image_BCHW)
    messages = [_normalised(image_BCHW, kernel) for kernel in kernels if kernel.weight]

    def added(q_BKHW: Probabilities) -> Probabilities:
        return sum((message(q_BKHW) for message in messages), start=torch.zeros_like(q_BKHW))

    total_B1HW = added(torch.ones_like(image_BCHW))

    def message(q_BKHW: Probabilities) -> Probabilities:
        """Q sums to 1 over the classes, so that the background gets what the others leave of the total."""
        others_BKHW = added(q_BKHW[:, 1:])
        return torch.cat([total_B1HW - others_BKHW.sum(1, keepdim=True), others_BKHW], 1)

    return message


def _normalised(image_BCHW: Image, kernel: Kernel) -> Message:
    sums = pair_sums(image_BCHW, kernel)
    scale_B1HW = (1.0 + sums(torch.ones_like(image_BCHW))).rsqrt()
    weight_B1HW = kernel.weight * scale_B1HW
    return lambda q_BKHW: weight_B1HW * sums(scale_B1HW * q_BKHW)
