# Written by book/beyond/deeper.md. To keep edits: tangle.py --back.
"""An average of the weights that training passes through."""

from cnn.layer import Layer


class ExponentialMovingAverage:
    """average <- decay * average + (1 - decay) * value, at each update.

    values: the average of each array, by name, as load_state_dict takes
    them; at first those that the network has when this is made.
    ValueError unless 0 <= decay < 1.
    """

    def __init__(self, network: Layer, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(
                f"decay is {decay}; expected 0 <= decay < 1. To average "
                "over about T steps, take 1 - 1/T."
            )
        self.arrays = network.named_arrays()
        self.decay = decay
        self.values = network.state_dict()

    def update(self) -> None:
        """Take the arrays' present values in; after each step."""
        for name, average in self.values.items():
            average += (1 - self.decay) * (self.arrays[name].value - average)
