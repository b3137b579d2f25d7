"""Makes errors of a data pipeline name the image."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmfasternet.compat import built_loops
from mmfasternet.datasets.naming import name_images_in_errors
from mmfasternet.registry import HOOKS


@HOOKS.register_module()
class NameImagesHook(Hook):
    """Makes the datasets name the image that their pipeline fails on; see :mod:`mmfasternet.datasets.naming`."""

    priority = 'LOWEST'

    def before_run(self, runner: Runner) -> None:
        for loop in built_loops(runner):
            if hasattr(loop, 'dataloader'):  # some have several
                name_images_in_errors(loop.dataloader.dataset)

    def before_train_epoch(self, runner: Runner) -> None:
        name_images_in_errors(runner.train_dataloader.dataset)  # a hook may have switched the pipeline
