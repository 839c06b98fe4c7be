"""Networks: published channels and parameters, any image size, repeatable weights, refused settings."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search_spaces import UserError
from trainables import networks
from trainables.method import Network

UNETS: list[dict[str, Any]] = [{}, {"width": 2, "levels": 2}, {"width": 4, "levels": 6}]
SIZES = [(1, 1), (3, 50), (16, 16), (17, 31), (33, 5), (64, 48)]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something asked the network")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def built(name: str, seed: int = 0, classes: int = 3, **settings: Any) -> Network:
    torch.manual_seed(seed)
    return networks.build(name, settings, classes)


def image(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(7))


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether all parameters and buffers are equal bit for bit."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def unet_parameters(width: int, levels: int, classes: int) -> int:
    """By formula: two 3x3 convolutions with bias and batch normalisation a block, 2x2 transposed ones up."""

    def block(inputs: int, outputs: int) -> int:
        convolutions = 9 * (inputs + outputs) * outputs + 2 * outputs
        return convolutions + 2 * 2 * outputs

    widths = [width << level for level in range(levels)]
    down = sum(block(i, o) for i, o in zip([1, *widths], widths, strict=False))
    up = sum(2 * f * f * 4 + f + block(2 * f, f) for f in widths[:-1])
    return down + up + 9 * width * classes + classes


class TestUNet:
    def test_published_channels(self) -> None:
        net = built("unet", classes=4)
        convolutions = [block[0] for block in net.down]  # type: ignore[union-attr]
        assert [(c.in_channels, c.out_channels) for c in convolutions] == [
            (1, 16), (16, 32), (32, 64), (64, 128), (128, 256),
        ]  # fmt: skip
        dropouts = [m.p for m in net.modules() if isinstance(m, nn.Dropout)]
        assert dropouts == [0.05, 0.1, 0.2, 0.3, 0.5, 0.0, 0.0, 0.0, 0.0]
        assert (net.feature_channels, net.bottleneck_channels, net.num_classes) == (16, 256, 4)

    def test_published_parameter_count(self) -> None:
        assert weights(built("unet", classes=4)).numel() == unet_parameters(16, 5, 4) == 1_944_324

    @pytest.mark.parametrize("settings", UNETS)
    def test_parameter_count_of_any_width_and_depth(self, settings: dict[str, Any]) -> None:
        shape = {"width": 16, "levels": 5, **settings}
        assert weights(built("unet", **settings)).numel() == unet_parameters(**shape, classes=3)

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("settings", UNETS)
    def test_any_image_size(self, settings: dict[str, Any], size: tuple[int, int]) -> None:
        net = built("unet", **settings).eval()
        out = net(image(2, 1, *size))
        stride = 2 ** (settings.get("levels", 5) - 1)
        assert out.logits_BKHW.shape == (2, 3, *size)
        assert out.features_BDHW.shape == (2, net.feature_channels, *size)
        assert out.bottleneck.shape == (
            2,
            net.bottleneck_channels,
            *(-(-length // stride) for length in size),
        )

    def test_padding_is_cropped_where_it_was_added(self) -> None:
        """An image that is padded equals the image that was padded by hand, below and to the right."""
        net, x = built("unet").eval(), image(1, 1, 16, 13)
        by_hand = torch.cat([x, x[..., -1:].expand(-1, -1, -1, 3)], -1)
        assert torch.equal(net(x).features_BDHW, net(by_hand).features_BDHW[..., :13])

    def test_the_settings_are_checked(self) -> None:
        with pytest.raises(UserError, match=r"network unet has no setting 'widht'\. Did you mean 'width'\?"):
            networks.build("unet", {"widht": 8}, 3)
        with pytest.raises(UserError, match=r"network unet: levels must lie in 2 \.\. 6, but got 7"):
            networks.check("unet", {"levels": 7})
        networks.check("unet", {"levels": 6, "width": 2})


class TestBoth:
    pytestmark = pytest.mark.parametrize(
        ("name", "settings"), [("unet", {"width": 4}), ("timm_unet", {"encoder": "resnet10t"})]
    )

    def test_weights_follow_from_the_seed(self, name: str, settings: dict[str, Any]) -> None:
        one, again, other = (built(name, seed=seed, **settings) for seed in (1, 1, 2))
        assert same(one, again)
        assert not torch.equal(weights(one), weights(other))
        x = image(2, 1, 16, 16)
        assert torch.equal(one.eval()(x).logits_BKHW, again.eval()(x).logits_BKHW)

    def test_stages_halve_from_the_padded_image_to_the_bottleneck(
        self, name: str, settings: dict[str, Any]
    ) -> None:
        net = built(name, **settings).eval()
        out = net(image(2, 1, 17, 31))
        assert tuple(stage.shape[1] for stage in out.stages) == net.stage_channels
        assert out.stages[-1] is out.bottleneck
        coarsest = out.bottleneck.shape[-2:]
        for stage, factor in zip(reversed(out.stages), (1, 2, 4, 8, 16, 32), strict=False):
            assert tuple(stage.shape[-2:]) == tuple(factor * length for length in coarsest)
        assert out.stages[0].shape[-2] >= 17

    def test_first_training_call_is_repeatable(self, name: str, settings: dict[str, Any]) -> None:
        outputs = []
        for _ in range(2):
            net = built(name, **settings).train()
            torch.manual_seed(5)
            outputs.append(net(image(2, 1, 32, 32)).logits_BKHW)
        assert torch.equal(*outputs)

    def test_state_goes_into_another_network(self, name: str, settings: dict[str, Any]) -> None:
        trained, fresh = built(name, seed=1, **settings).train(), built(name, seed=2, **settings)
        trained(image(4, 1, 32, 32))  # moves the running statistics, which must travel too
        assert not same(trained, fresh)
        fresh.load_state_dict(trained.state_dict())
        assert same(trained, fresh)
        x = image(1, 1, 24, 40)
        assert torch.equal(trained.eval()(x).logits_BKHW, fresh.eval()(x).logits_BKHW)

    def test_gradients_reach_every_parameter(self, name: str, settings: dict[str, Any]) -> None:
        net = built(name, **settings).train()
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(2):  # timm starts residual branches at zero, so the first step opens them only
            optimiser.zero_grad()
            net(image(4, 1, 64, 64)).logits_BKHW.square().mean().backward()
            optimiser.step()
        for label, parameter in net.named_parameters():
            assert parameter.grad is not None, label
            assert parameter.grad.isfinite().all(), label
            # A bias before a batch normalisation has the gradient 0 by nature; a weight has not.
            assert parameter.ndim == 1 or parameter.grad.any(), label


@pytest.mark.usefixtures("no_network")
class TestTimmUNet:
    def test_random_weights_without_a_network(self) -> None:
        net = built("timm_unet", classes=2)
        out = net.eval()(image(1, 1, 32, 32))
        assert out.logits_BKHW.shape == (1, 2, 32, 32)
        assert not torch.equal(weights(net), weights(built("timm_unet", seed=1, classes=2)))

    @pytest.mark.parametrize("size", SIZES)
    def test_any_image_size(self, size: tuple[int, int]) -> None:
        net = built("timm_unet", encoder="resnet10t").eval()
        out = net(image(2, 1, *size))
        assert out.logits_BKHW.shape == (2, 3, *size)
        assert out.features_BDHW.shape == (2, net.feature_channels, *size)
        assert out.bottleneck.shape == (2, net.bottleneck_channels, *(-(-length // 32) for length in size))

    def test_one_input_channel(self) -> None:
        first = next(m for m in built("timm_unet").modules() if isinstance(m, nn.Conv2d))
        assert first.in_channels == 1

    def test_unknown_encoder(self) -> None:
        with pytest.raises(UserError, match=r"timm has no encoder 'resnet81'\. Did you mean 'resnet\w+'\?"):
            networks.build("timm_unet", {"encoder": "resnet81"}, 3)


def test_networks_are_found_by_file() -> None:
    assert networks.names() == ["timm_unet", "unet"]


def test_unknown_network() -> None:
    with pytest.raises(
        UserError, match=r"no network 'u_net'\. Did you mean 'unet'\? Networks: timm_unet, unet"
    ):
        networks.build("u_net", {}, 3)
