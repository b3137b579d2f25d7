"""Replacement of modules within a model."""

from typing import Callable, Dict, Optional

from torch import nn


def replace_modules(model: nn.Module, replacement: Callable[[nn.Module], Optional[nn.Module]]) -> None:
    """Replace each submodule that has a replacement, in place.

    A module that several others share gets one shared replacement.

    Args:
        model: The model; it is not replaced itself.
        replacement: Returns the replacement of a module, or None to keep it.
    """
    made: Dict[nn.Module, Optional[nn.Module]] = {}
    for module in list(model.modules()):
        for name, child in children(module).items():
            if child not in made:
                made[child] = replacement(child)
            if made[child] is not None:
                setattr(module, name, made[child])


def children(module: nn.Module) -> Dict[str, nn.Module]:
    """A module's children by all of their names; ``named_children()`` hides the second name of a child."""
    return {name: child for name, child in module.named_modules(remove_duplicate=False) if name and '.' not in name}
