"""timm networks by name, in their inference form: merged branches, folded norms."""

import difflib
from collections import Counter
from types import ModuleType
from typing import Any, Dict, List, Set, Tuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks

from mmfasternet.compat import tree_leaves
from mmfasternet.deploy.folding import applies_statistics, folded_behind
from mmfasternet.errors import UserError

#: Prefix of timm's names of networks on the command line.
PREFIX = 'timm:'


def build_timm(name: str, **options: Any) -> nn.Module:
    """Build a timm network with random weights, and with its parallel training branches merged.

    RepViT, FastViT, MobileOne and others are published in that form, which the
    parameters, multiply-adds and latencies in their papers refer to.

    Args:
        name: Its name, with or without the tag of its weights, which are not
            loaded.
        **options: Further arguments of ``timm.create_model``.

    Raises:
        UserError: If timm is not installed or lists no such network.
    """
    timm_config(name)
    import timm
    from timm.utils.model import reparameterize_model
    model = timm.create_model(name, **options)
    model.eval()
    return reparameterize_model(model, inplace=True)


def timm_config(name: str) -> Any:
    """timm's description of a network and its weights, a ``PretrainedCfg``.

    Raises:
        UserError: If timm is not installed or lists no such network.
    """
    timm = _timm(name)
    try:
        found = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # the name is known, but not the tag of the weights
        found = None
    if found is None:
        networks = timm.list_models()
        arch = name.partition('.')[0]
        near = timm.list_pretrained(f'{arch}.*') if arch in networks else difflib.get_close_matches(name, networks, 5)
        raise UserError(f"timm {timm.__version__} lists no network '{name}'. "
                        + (f"Similar names: {', '.join(near)}" if near else 'timm.list_models() gives their names'))
    return found


def image_size(name: str) -> int:
    """Height and width of a network's images in timm's config, in pixels.

    It is ``input_size``, for which multiply-adds are published, and not the
    larger ``test_input_size`` of some weights.

    Raises:
        UserError: If timm is not installed or lists no such network, or its
            images are not square.
    """
    _, height, width = timm_config(name).input_size
    if height != width:
        raise UserError(f"'{PREFIX}{name}' takes images of {height} x {width} pixels: only square images are supported")
    return height


def family_of(name: str) -> str:
    """The family of a timm network: the timm module that defines it."""
    return _timm(name).model_entrypoint(name.partition('.')[0]).__module__.rpartition('.')[2]


def fold_timm_norms(model: nn.Module, images: Tensor) -> None:
    """Fold every batch norm of a timm network into the convolution whose output only it reads, in place.

    The pairs are found in the graph that autograd records for one call,
    because neither names nor the order of registration tell. Norms that follow
    anything else, such as those before an attention, are kept.

    Args:
        model: The network, in eval mode.
        images: Input images ``(N, 3, H, W)``, of its type and on its device.
    """
    from timm.layers import BatchNormAct2d, Conv2dSame
    convs: Dict[Node, nn.Conv2d] = {}  # by the node of their output
    norms: List[Tuple[Node, str, nn.Module]] = []  # with the node of their input
    calls: Counter[nn.Module] = Counter()

    def visit(module: nn.Module, inputs: Tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            convs[output.grad_fn] = module
        else:
            norms.append((inputs[0].grad_fn, names[module], module))

    names = {module: name for name, module in model.named_modules()}
    # Other subclasses may standardise their weights, or normalise by other statistics.
    hooks = [module.register_forward_hook(visit) for module in names
             if type(module) in (nn.Conv2d, Conv2dSame)
             or type(module) in (nn.BatchNorm2d, BatchNormAct2d) and applies_statistics(module)]
    with torch.enable_grad(), saved_tensors_hooks(lambda tensor: None, lambda nothing: nothing):
        outputs = tree_leaves(model(images.detach().requires_grad_()))
    for hook in hooks:
        hook.remove()
    readers = _readers([output.grad_fn for output in outputs])
    for node, name, norm in norms:
        conv = convs.get(node)
        if conv is not None and readers[node] == calls[conv] == calls[norm] == 1:
            conv.weight, conv.bias = folded_behind(conv, norm)
            parent, _, attribute = name.rpartition('.')
            setattr(model.get_submodule(parent), attribute, getattr(norm, 'act', nn.Identity()))


def is_timms(model: nn.Module) -> bool:
    """Whether a model is a timm network."""
    return type(model).__module__.startswith('timm.')


def count_attention(model: nn.Module) -> None:
    """Switch off fused attention in timm's modules, in place: MMEngine's counter counts it as 0."""
    for module in model.modules():
        if getattr(module, 'fused_attn', False):
            module.fused_attn = False


def _readers(outputs: List[Node]) -> Counter[Node]:
    """How often each node of an autograd graph is read, by other nodes and as an output."""
    readers, waiting = Counter(outputs), list(outputs)
    seen: Set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            sources = [source for source, _ in node.next_functions if source is not None]
            readers.update(sources)
            waiting += sources
    return readers


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError:
        raise UserError(f"'{name}' is a timm network, but timm is not installed: pip install timm") from None
    return timm
