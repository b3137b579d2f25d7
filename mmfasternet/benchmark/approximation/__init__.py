"""What stands behind partial convolution: Table 2 and Fig. 6 of the paper, on anyone's images and weights."""

from .kernels import OPERATORS, approximate_conv, collect_maps
from .salience import salient_positions

__all__ = ['OPERATORS', 'approximate_conv', 'collect_maps', 'salient_positions']
