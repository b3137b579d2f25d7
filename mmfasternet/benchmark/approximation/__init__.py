"""The evidence for partial convolution: Table 2 and Fig. 6 of the paper, on your own images and weights."""

from .kernels import OPERATORS, approximate_conv, collect_maps
from .salience import salient_positions

__all__ = ['OPERATORS', 'approximate_conv', 'collect_maps', 'salient_positions']
