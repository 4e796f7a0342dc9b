import pytest
import torch
from torch import nn

from research.miniature.optimizer import MuonAdamW, kernel_names


def test_kernels_are_those_of_convolutions() -> None:
    module = nn.Sequential(nn.Conv3d(2, 4, 3), nn.LayerNorm(4), nn.Linear(4, 4), nn.Conv2d(4, 2, 1))
    assert kernel_names(module) == ["0.weight", "3.weight"]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_kernels_step_is_orthogonal_however_it_lies(layout: torch.memory_format) -> None:
    """Muon's steps have singular values of about the learning rate, whatever the gradient."""
    torch.manual_seed(0)
    module = nn.Conv3d(3, 8, 3)
    module.weight.data = module.weight.data.contiguous(memory_format=layout)
    before = module.weight.detach().clone()
    optimizer = MuonAdamW(module, ["weight"], muon_lr=0.1, adamw_lr=0.0)
    (module(torch.randn(2, 3, 4, 4, 4)) ** 2).sum().backward()
    optimizer.step(share=0.5)
    moved = (module.weight.detach() - before).flatten(1)
    singular = torch.linalg.svdvals(moved)
    assert ((singular > 0.5 * 0.05) & (singular < 1.5 * 0.05)).all()
    assert module.weight.grad is None


def test_what_is_not_a_kernel_is_moved_by_adamw() -> None:
    module = nn.Conv2d(2, 3, 1)
    bias = module.bias.detach().clone()
    optimizer = MuonAdamW(module, ["weight"], muon_lr=0.0, adamw_lr=0.01)
    module(torch.randn(1, 2, 4, 4)).sum().backward()
    optimizer.step(share=1.0)
    assert torch.allclose(bias - module.bias, torch.full((3,), 0.01), atol=1e-5)


def test_a_state_goes_on_as_if_nothing_had_been() -> None:
    def steps(module: nn.Module, optimizer: MuonAdamW, seeds: range) -> None:
        for seed in seeds:
            values = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(seed))
            (module(values) ** 2).mean().backward()
            optimizer.step(share=1.0)

    torch.manual_seed(0)
    whole = nn.Conv2d(2, 3, 3)
    halves = nn.Conv2d(2, 3, 3)
    halves.load_state_dict(whole.state_dict())
    steps(whole, MuonAdamW(whole, ["weight"], 0.02, 0.01), range(4))
    first = MuonAdamW(halves, ["weight"], 0.02, 0.01)
    steps(halves, first, range(2))
    second = MuonAdamW(halves, ["weight"], 0.02, 0.01)
    second.load_state_dict(first.state_dict())
    steps(halves, second, range(2, 4))
    assert torch.equal(whole.weight, halves.weight)
    assert torch.equal(whole.bias, halves.bias)
