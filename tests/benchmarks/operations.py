"""Floating-point operations of matrix products, counted from the sizes of a network.

A multiplication and its addition are two operations. What is not a matrix product (norms, softmax,
activations) is left out: on every machine here it is bound by memory and small beside them.
"""

from t2imu_utils.models.mdm import MDMConfig

# Of DeepConvLSTM (`analysis.har`).
CONVOLUTIONS, KERNEL = 4, 5
SHRINK = CONVOLUTIONS * (KERNEL - 1)


def mdm_pass(config: MDMConfig, items: int, frames: int, tokens: int) -> float:
    """One pass of the decoder variant, as it is written down: every product of every layer."""
    d, own, text = config.width, frames, tokens
    projections = own * 6 * d**2 + text * 2 * d**2
    attention = 2 * own * own * d + 2 * own * text * d
    layer = projections + attention + 2 * own * d * config.feedforward
    ends = 2 * own * config.channels * d + text * config.text_width * d + 2 * d**2
    return 2.0 * items * (config.layers * layer + ends)


def mdm_guided(config: MDMConfig, items: int, frames: int, tokens: int) -> float:
    """What one guided evaluation needs: as `mdm_guided` of two passes, without what repeats.

    Keys and values of the text are there already and narrow (heads x tokens wide once they are
    joined with the projections around them), without text cross-attention is a constant, and until
    the first of them the two halves are one (`t2imu_utils.models.mdm.fast_guided`).
    """
    d = config.width
    own = frames * 4 * d**2 + 2 * frames * frames * d
    text = 2 * frames * d * config.heads * tokens
    forward = 2 * frames * d * config.feedforward
    ends = 2 * frames * config.channels * d
    rows = (2 * config.layers - 1) * own + config.layers * (text + 2 * forward) + ends
    return 2.0 * items * rows


def deepconvlstm(samples: int, channels: int, classes: int, filters: int, units: int) -> float:
    """One window forward through DeepConvLSTM."""
    total, length = 0.0, samples
    for layer in range(CONVOLUTIONS):
        length -= KERNEL - 1
        total += length * channels * KERNEL * filters * (filters if layer else 1)
    steps = samples - SHRINK
    total += steps * 4 * units * (filters * channels + units) + steps * 4 * units * 2 * units
    return 2.0 * (total + units * classes)
