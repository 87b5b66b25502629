# Written by book/beyond/averaging.md. To keep edits: tangle.py --back.
"""An average of the weights that training passes through."""

from cnn.data import check_numbers
from cnn.layer import Layer, Parameter


class ExponentialMovingAverage:
    """A moving average of a network's parameters.

    network: whose parameters are averaged; it is not changed.
    decay: share of the old average that stays at each update, below 1.
    values: the averages by name, and the buffers as they are, as
        load_state_dict takes them; at first what the network has when
        this is made.
    ValueError unless 0 <= decay < 1.
    """

    def __init__(self, network: Layer, decay: float) -> None:
        check_numbers(decay=decay)
        if not 0 <= decay < 1:
            raise ValueError(
                f"decay is {decay}; expected 0 <= decay < 1. To average "
                "over about T steps, take 1 - 1/T."
            )
        self.arrays = network.named_arrays()
        self.decay = decay
        self.values = network.state_dict()

    def update(self, network: Layer) -> None:
        """Take the present parameters in; call it after each step.

        network: that of __init__; ValueError if its parameters are others.
        Equation: eq-averaging-average.
        """
        if network.named_arrays() != self.arrays:
            raise ValueError(
                "ExponentialMovingAverage was made for another network; "
                "expected the parameters that it averages. Make a new "
                "average after the network."
            )
        for name, array in self.arrays.items():
            kept = self.decay if isinstance(array, Parameter) else 0
            average = self.values[name]
            average += (1 - kept) * (array.value - average)
