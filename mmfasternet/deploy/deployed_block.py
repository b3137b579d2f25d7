"""The FasterNet block for inference."""

import copy
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfasternet.compat import addmm_relu
from mmfasternet.deploy.folding import folded_behind, is_fixed
from mmfasternet.errors import ArgumentError
from mmfasternet.models.layers import FasterNetBlock

#: Ways to compute a block; see :class:`DeployedBlock`.
ALGORITHMS = ('matmul', 'linear', 'conv', 'gemm')


class DeployedBlock(nn.Module):
    """A FasterNet block with its norm and layer scale folded, for inference only.

    All algorithms give the same outputs as the original block in eval mode, up to rounding:

    - ``'matmul'``: the pointwise convolutions are matrix products that
      accumulate in place. The expansion ``W1 = (Wa, Wb)`` is split into its
      two blocks of columns, so that the convolved and the untouched channels
      are never in one tensor: ``h = Wb xb + Wa conv(xa)``. In the
      channels-last memory format only the convolution's input is copied, and
      the block's input if it does not own it. The fastest one in eager
      PyTorch on a CPU.
    - ``'linear'``: concatenation, and linear layers on channels-last maps;
      nothing is written in place. For ``torch.compile``.
    - ``'conv'``: concatenation and convolutions, which ONNX Runtime and
      OpenVINO fuse best.
    - ``'gemm'``: concatenation, and matrix products on channels-last maps that also add bias, ReLU and residual, as
      cuBLAS can: the fewest kernels and the least memory access on a GPU.

    Args:
        block: The block; its weights are copied.
        algorithm: One of the above. Defaults to ``'conv'``.
        owns_input: Let ``'matmul'`` and ``'gemm'`` add the residual to their input in place, because nothing else reads
            it. Defaults to False.

    Raises:
        ValueError: If there is no such algorithm.
    """

    def __init__(self, block: FasterNetBlock, algorithm: str = 'conv', owns_input: bool = False) -> None:
        super().__init__()
        self.algorithm = check_algorithm(algorithm)
        self.owns_input = owns_input
        self.conv_channels = block.pconv.conv_channels
        self.pconv = copy.deepcopy(block.pconv.conv)
        self.conv1 = copy.deepcopy(block.conv1)
        self.norm = copy.deepcopy(block.norm)
        self.folded = is_fixed(block.norm)
        if self.folded:
            self.conv1.weight, self.conv1.bias = folded_behind(block.conv1, block.norm)
            self.norm = nn.Identity()
        self.act = copy.deepcopy(block.act)
        self.conv2 = copy.deepcopy(block.conv2)
        if not isinstance(block.layer_scale, nn.Identity):
            scale = block.layer_scale.weight.detach().double().reshape(-1, 1, 1, 1)
            self.conv2.weight.data = (self.conv2.weight.detach().double() * scale).to(self.conv2.weight.dtype)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        if self.algorithm == 'matmul':
            if x.is_contiguous(memory_format=torch.channels_last):
                return self._matmul_channels_last(x)
            return self._matmul_channels_first(x.contiguous())
        if self.algorithm == 'linear':
            return self._linear(x)
        if self.algorithm == 'gemm':
            return self._gemm(x)
        convolved, untouched = x.split((self.conv_channels, x.shape[1] - self.conv_channels), dim=1)
        partial = torch.cat((self.pconv(convolved), untouched), dim=1)
        return x + self.conv2(self.act(self.norm(self.conv1(partial))))

    def extra_repr(self) -> str:
        return f'algorithm={self.algorithm}, owns_input={self.owns_input}'

    def _weights(self) -> Tuple[Tensor, Tensor, Tensor]:
        """Both halves of the expansion, and the projection, as matrices ``(out, in)``."""
        expand, project = self.conv1.weight.flatten(1), self.conv2.weight.flatten(1)
        return expand[:, :self.conv_channels], expand[:, self.conv_channels:], project

    def _matmul_channels_last(self, x: Tensor) -> Tensor:
        convolved, untouched, project = self._weights()
        rows = _rows(x)
        hidden = rows[:, self.conv_channels:] @ untouched.t() if self.conv1.bias is None else torch.addmm(
            self.conv1.bias, rows[:, self.conv_channels:], untouched.t())
        # The slice is not contiguous: the convolution copies it for its fast kernel, the only copy here.
        hidden.addmm_(_rows(self.pconv(x[:, :self.conv_channels])), convolved.t())
        size = (x.shape[0], *x.shape[2:], -1)
        if self.folded:
            hidden = self.act(hidden)  # on a plain matrix, for which PyTorch's GELU has its fast kernel
        else:
            hidden = _rows(self.act(self.norm(hidden.view(size).permute(0, 3, 1, 2))))
        out = rows.addmm_(hidden, project.t()) if self.owns_input else torch.addmm(rows, hidden, project.t())
        return out.view(size).permute(0, 3, 1, 2)

    def _matmul_channels_first(self, x: Tensor) -> Tensor:
        convolved, untouched, project = (w.expand(len(x), -1, -1) for w in self._weights())
        columns = x.flatten(2)
        hidden = untouched.bmm(columns[:, self.conv_channels:]) if self.conv1.bias is None else torch.baddbmm(
            self.conv1.bias[:, None], untouched, columns[:, self.conv_channels:])
        hidden.baddbmm_(convolved, self.pconv(x[:, :self.conv_channels]).contiguous().flatten(2))
        if self.folded:
            hidden = self.act(hidden)
        else:
            hidden = self.act(self.norm(hidden.unflatten(2, x.shape[2:]))).contiguous().flatten(2)
        out = columns.baddbmm_(project, hidden) if self.owns_input else torch.baddbmm(columns, project, hidden)
        return out.unflatten(2, x.shape[2:])

    def _linear(self, x: Tensor) -> Tensor:
        rows, size = _rows(x), (x.shape[0], *x.shape[2:], -1)
        partial = torch.cat((_rows(self.pconv(x[:, :self.conv_channels])), rows[:, self.conv_channels:]), dim=1)
        hidden = F.linear(partial, self.conv1.weight.flatten(1), self.conv1.bias)
        if self.folded:
            hidden = self.act(hidden)
        else:
            hidden = _rows(self.act(self.norm(hidden.view(size).permute(0, 3, 1, 2))))
        out = rows + F.linear(hidden, self.conv2.weight.flatten(1))
        return out.view(size).permute(0, 3, 1, 2)

    def _gemm(self, x: Tensor) -> Tensor:
        rows, size = _rows(x), (x.shape[0], *x.shape[2:], -1)
        partial = torch.cat((_rows(self.pconv(x[:, :self.conv_channels])), rows[:, self.conv_channels:]), dim=1)
        expand, project = self.conv1.weight.flatten(1).t(), self.conv2.weight.flatten(1).t()
        if not self.folded:
            hidden = F.linear(partial, expand.t(), self.conv1.bias)
            hidden = _rows(self.act(self.norm(hidden.view(size).permute(0, 3, 1, 2))))
        elif type(self.act) is nn.ReLU:
            hidden = addmm_relu(self.conv1.bias, partial, expand)
        else:
            hidden = self.act(torch.addmm(self.conv1.bias, partial, expand))
        # A map that is not channels-last was copied into rows, which nothing else reads either.
        owned = self.owns_input or rows.data_ptr() != x.data_ptr()
        out = rows.addmm_(hidden, project) if owned else torch.addmm(rows, hidden, project)
        return out.view(size).permute(0, 3, 1, 2)


def check_algorithm(algorithm: str) -> str:
    """Return ``algorithm``, or raise ``ArgumentError`` if there is no such algorithm."""
    if algorithm not in ALGORITHMS:
        raise ArgumentError(f'algorithm must be one of {ALGORITHMS}, got {algorithm!r}')
    return algorithm


def _rows(x: Tensor) -> Tensor:
    """A map ``(N, C, H, W)`` as the matrix ``(N * H * W, C)``, without a copy if it is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
