"""Small tensors on their way to a device: pinned, as long as the system pins."""

import pytest
import torch
from torch import Tensor

from maskora.streaming.transfer import Upload

FULL = "CUDA error: out of memory"


@pytest.mark.parametrize("error", [None, FULL, "something else"])
def test_what_a_gpu_gets_is_pinned_until_that_is_refused(
    error: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Tensor] = []

    def pin_memory(tensor: Tensor) -> Tensor:
        asked.append(tensor)
        if error is not None:
            raise torch.AcceleratorError(error)
        return tensor.clone()

    def to(tensor: Tensor, device: torch.device, non_blocking: bool) -> Tensor:
        assert non_blocking
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Tensor, "to", to)
    upload, given = Upload(torch.device("cuda", 1)), torch.ones(3)
    if error == "something else":
        with pytest.raises(RuntimeError, match=error):
            upload(given)
        return
    sent = [upload(given) for _ in range(2)]
    assert all((one is given) == (error is not None) for one in sent)
    assert len(asked) == (1 if error else 2)  # what was refused is not tried again


def test_a_device_in_the_hosts_own_memory_gets_the_tensor_itself() -> None:
    given = torch.ones(3)
    assert Upload(torch.device("cpu"))(given) is given
