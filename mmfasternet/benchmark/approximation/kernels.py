"""How well cheap operators approximate a 3x3 convolution: Table 2 of the paper."""

import copy
from typing import Callable, Dict, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmcv.transforms import CenterCrop, Compose, Resize
from torch import Tensor, nn
from torchvision.models import resnet50

from mmfasternet.datasets.image_loading import LoadImageFromFile
from mmfasternet.errors import CheckpointError, DataError
from mmfasternet.models import PartialConv
from mmfasternet.models.weights.fitting import listed

GROUPS = 16
SIDE = 224
SPLIT = (70, 10)  # percent for training and validation, section 4.2; the rest is for the test
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_STAGES = ('layer1.0', 'layer2.1', 'layer3.1', 'layer4.1')
_FEWEST_IMAGES = 10

Maps = Tuple[Tensor, Tensor]


def _with_pointwise(make: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    return lambda channels: nn.Sequential(make(channels), nn.Conv2d(channels, channels, 1, bias=False))


def _conv(channels: int, groups: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)


#: The networks that are fitted, by name: a spatial operator and a 1x1 convolution, as a function of the channels.
OPERATORS: Dict[str, Callable[[int], nn.Module]] = {
    'DWConv + PWConv': _with_pointwise(lambda channels: _conv(channels, channels)),
    'GConv + PWConv': _with_pointwise(lambda channels: _conv(channels, GROUPS)),
    'PConv + PWConv': _with_pointwise(lambda channels: PartialConv(channels, partial_ratio=1 / 4)),
}


def collect_maps(weights: Dict[str, Tensor], images: Sequence[str], device: torch.device,
                 batch_size: int = 16) -> List[Maps]:
    """Feature maps before and after a 3x3 convolution of each stage of a ResNet-50.

    It is the first one of the stage that keeps the size of its map: the one in
    the first block of stages 2 to 4 has a stride, which a partial convolution
    can't have.

    Args:
        weights: State dict of a ResNet-50, with torchvision's names, which
            MMPretrain and MMDetection also use.
        images: Image files; each is resized to its shorter side of 256 pixels
            and cropped to 224 x 224.
        device: Device to compute on.
        batch_size: Batch size. Defaults to 16.

    Returns:
        Inputs and outputs, ``(images, C, H, W)`` on the CPU, of each stage.

    Raises:
        CheckpointError: If the weights are not those of a ResNet-50.
        DataError: If there are fewer than ten images, or one is broken.
    """
    if len(images) < _FEWEST_IMAGES:
        raise DataError(f'{len(images)} images are too few to train, validate and test on: give at least '
                        f'{_FEWEST_IMAGES}')
    model = _resnet50(weights).to(device)
    modules = dict(model.named_modules())
    seen: List[List[Maps]] = [[] for _ in _STAGES]
    for stage, found in zip(_STAGES, seen):
        modules[f'{stage}.conv2'].register_forward_hook(
            lambda module, inputs, output, found=found: found.append((inputs[0].cpu(), output.cpu())))
    pipeline = Compose([LoadImageFromFile(), Resize(scale=(256, 1 << 16), keep_ratio=True), CenterCrop((SIDE, SIDE))])
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            pictures = [pipeline(dict(img_path=path))['img'] for path in images[start:start + batch_size]]
            batch = torch.stack([torch.from_numpy(picture[..., ::-1].copy()) for picture in pictures]).float()
            batch = (batch - torch.tensor(_MEAN)) / torch.tensor(_STD)
            model(batch.permute(0, 3, 1, 2).to(device))
    return [(torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])) for found in seen]


def approximate_conv(operator: str,
                     maps: Maps,
                     device: torch.device,
                     epochs: int = 50,
                     lr: float = 1e-3,
                     batch_size: int = 32) -> float:
    """Fit an operator to a convolution's inputs and outputs.

    Adam, mean squared error; the first 70 % of the images train it, the next
    10 % choose the epoch, the rest test it.

    Args:
        operator: A name of :data:`OPERATORS`.
        maps: Inputs and outputs of the convolution.
        device: Device to compute on.
        epochs: Passes over the training images. Defaults to 50.
        lr: Initial learning rate, with cosine decay to 0. Defaults to 1e-3.
        batch_size: Images in a batch. Defaults to 32.

    Returns:
        Mean squared error on the test images.
    """
    inputs, outputs = maps
    count = len(inputs)
    ends = (count * SPLIT[0] // 100, count * sum(SPLIT) // 100)
    torch.manual_seed(0)
    network = OPERATORS[operator](inputs.shape[1]).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best, kept = float('inf'), copy.deepcopy(network.state_dict())
    for _ in range(epochs):
        for chosen in torch.randperm(ends[0]).split(batch_size):
            loss = F.mse_loss(network(inputs[chosen].to(device)), outputs[chosen].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        error = _error(network, inputs[ends[0]:ends[1]], outputs[ends[0]:ends[1]], device, batch_size)
        if error < best:
            best, kept = error, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    return _error(network, inputs[ends[1]:], outputs[ends[1]:], device, batch_size)


def _error(network: nn.Module, inputs: Tensor, outputs: Tensor, device: torch.device, batch_size: int) -> float:
    with torch.no_grad():
        errors = [F.mse_loss(network(x.to(device)), y.to(device)).item() * len(x)
                  for x, y in zip(inputs.split(batch_size), outputs.split(batch_size))]
    return sum(errors) / len(inputs)


def _resnet50(weights: Dict[str, Tensor]) -> nn.Module:
    model = resnet50().eval()
    wanted = {key for key in model.state_dict() if not key.startswith('fc.') and 'num_batches' not in key}
    found = {key.removeprefix('backbone.'): value for key, value in weights.items()}
    missing = sorted(wanted - found.keys())
    if missing:
        raise CheckpointError(f'the checkpoint is not a ResNet-50: it lacks {listed(missing, 5)}')
    try:
        model.load_state_dict({key: found[key] for key in wanted}, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f'the checkpoint is not a ResNet-50: {str(error).splitlines()[-1].strip()}') from None
    return model
