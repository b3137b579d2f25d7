"""Exchange of modules within a model."""

from typing import Callable, Dict, Optional

from torch import nn


def replace_modules(model: nn.Module, replacement: Callable[[nn.Module], Optional[nn.Module]]) -> None:
    """Put a replacement in the place of each submodule that has one, in place.

    A module that several others share is replaced by one, which they share.

    Args:
        model: The model; it is not replaced itself.
        replacement: Gives the replacement of a module, or None to keep it.
    """
    made: Dict[nn.Module, Optional[nn.Module]] = {}
    for module in list(model.modules()):
        for name, child in children(module).items():
            if child not in made:
                made[child] = replacement(child)
            if made[child] is not None:
                setattr(module, name, made[child])


def children(module: nn.Module) -> Dict[str, nn.Module]:
    """A module's children by all of their names; ``named_children()`` hides the second one that a child has."""
    return {name: child for name, child in module.named_modules(remove_duplicate=False) if name and '.' not in name}
