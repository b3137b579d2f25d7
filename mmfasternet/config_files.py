"""The configs that come with the package, by name."""

import difflib
from pathlib import Path
from typing import Any, Dict, List

from mmfasternet.errors import UserError


def configs_folder() -> Path:
    """The folder of configs: in the package if it was installed, next to it in a checkout.

    Raises:
        UserError: If neither exists.
    """
    package = Path(__file__).parent
    for folder in (package / '.mim' / 'configs', package.parent / 'configs'):
        if folder.is_dir():
            return folder
    raise UserError(f"the configs are missing in '{package}': install mmfasternet again")


def config_names() -> List[str]:
    """Names of all configs, such as ``'mask_rcnn_fasternet_s_1x_coco'``, with their folder if they have one."""
    folder = configs_folder()
    paths = (path.relative_to(folder).with_suffix('') for path in folder.rglob('*.py'))
    return sorted(str(path) for path in paths if path.parts[0] != '_base_')


def config_path(name: str) -> str:
    """Path of a config by its name.

    Args:
        name: Such as ``'mask_rcnn_fasternet_s_1x_coco'``, with or without
            ``.py``, and with ``_`` or ``-``.

    Raises:
        UserError: If there is no config of this name; the message lists similar ones.

    Example:
        A config of your own, in any folder::

            _base_ = __import__('mmfasternet').config_path('mask_rcnn_fasternet_s_1x_coco')
    """
    stem, names = str(name).removesuffix('.py').removeprefix('configs/'), config_names()
    found = next((known for known in names if known.replace('-', '_') == stem.replace('-', '_')), None)
    if found is None:
        near = [known for known in names if known.startswith(stem)] or difflib.get_close_matches(stem, names, 3, 0.6)
        hint = f'Similar names: {", ".join(near[:3])}' if near else f'All configs are in {configs_folder()}'
        raise UserError(f"the package has no config named '{name}'. {hint}")
    return str(configs_folder() / f'{found}.py')


def config_entries(file: str) -> Dict[str, Any]:
    """Content of a config, for its module in ``mmfasternet.configs``.

    Args:
        file: The module's file; its name has ``_`` instead of ``-``.
    """
    from mmengine.config import Config
    cfg = Config.fromfile(config_path(Path(file).stem))
    return {key: cfg[key] for key in cfg}
