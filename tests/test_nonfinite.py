"""nan and infinity, planted at each place of each array, beside PyTorch."""

import numpy as np
import pytest
import torch
from conftest import CONTRACT_LAYERS
from toys import to_torch


BAD = [np.nan, np.inf, -np.inf]


def agree(ours: object, theirs: torch.Tensor | None, where: object) -> None:
    """Equal where finite, else the same kind: nan, inf or -inf."""
    assert theirs is not None
    np.testing.assert_allclose(
        np.asarray(ours),
        theirs.detach().numpy(),
        rtol=1e-10,
        atol=1e-12,
        err_msg=str(where),
    )


def quiet():
    """0 * inf and inf - inf warn; here they are what is asked about."""
    return np.errstate(invalid="ignore", over="ignore")


class FirstNan(torch.nn.MaxPool2d):
    """Of several nan in a window PyTorch takes the last, and we the first."""

    def forward(self, x):
        y = super().forward(x)
        last = super().forward(x.flip(2, 3)).flip(2, 3)
        return torch.where(y.isnan(), last, y)


def twin_of(layer):
    twin = to_torch(layer)
    if isinstance(twin, torch.nn.Sequential):
        # No rows are left over, so that its windows are the flipped ones.
        twin[2] = FirstNan(2)
    return twin


def hold_against_torch(layer, x, grad, where):
    """Forward and all gradients of a layer and its twin."""
    twin = twin_of(layer)
    tx = torch.tensor(x, requires_grad=True)
    ty = twin(tx)
    ty.backward(torch.tensor(grad))
    with quiet():
        agree(layer.forward(x), ty, where)
        agree(layer.backward(grad), tx.grad, where)
    for ours, theirs in zip(
        layer.parameters(), twin.parameters(), strict=True
    ):
        agree(ours.grad, theirs.grad, where)


def planted(array):
    """The array with each bad number at each place, and what that is."""
    for bad in BAD:
        for place in np.ndindex(array.shape):
            copy = array.copy()
            copy[place] = bad
            yield copy, (bad, place)


@pytest.mark.parametrize("name", CONTRACT_LAYERS)
def test_each_layer_does_as_pytorch_does(name):
    make, shape = CONTRACT_LAYERS[name]
    layer = make().to(np.float64)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *shape[1:]))
    grad = rng.standard_normal(layer.forward(x).shape)
    for bad_x, where in planted(x):
        hold_against_torch(layer, bad_x, grad, ("x", where))
    for bad_grad, where in planted(grad):
        hold_against_torch(layer, x, bad_grad, ("grad", where))
    for key, parameter in layer.named_parameters().items():
        kept = parameter.value
        for bad, where in planted(kept):
            parameter.value = bad
            hold_against_torch(layer, x, grad, (key, where))
        parameter.value = kept
