"""How a config is trained or tested."""

from dataclasses import dataclass, field
from typing import Optional, Union

from mmfasternet.engine.deploying import DeployOptions
from mmfasternet.engine.speedups import SpeedUps


@dataclass(frozen=True)
class TrainOptions:
    """How a config is trained.

    Attributes:
        resume: Path or URL of a checkpoint to resume from, or ``'auto'``, the
            work folder's newest complete one. None: as the config says.
        auto_scale_lr: Scale the learning rate by the actual batch size over
            the config's base batch size.
        deterministic: Use deterministic operators, and seed 0 unless the
            config has another.
        skip_nan: Skip batches whose loss is NaN or infinite instead of
            stopping.
        speed_ups: Speed-ups of the training.
    """
    resume: Optional[str] = None
    auto_scale_lr: bool = False
    deterministic: bool = False
    skip_nan: bool = False
    speed_ups: SpeedUps = field(default_factory=SpeedUps)


@dataclass(frozen=True)
class TestOptions:
    """How a config is tested.

    Attributes:
        checkpoint: Path or URL of the weights, or folder of an export. None:
            the weights are not changed.
        out: Pickle file for the raw predictions.
        show_dir: Folder for pictures of the predictions next to the ground
            truth.
        tta: Average over an image and its mirror image, unless the config sets
            other views.
        deploy: Inference form of the model.
    """
    checkpoint: Optional[str] = None
    out: Optional[str] = None
    show_dir: Optional[str] = None
    tta: bool = False
    deploy: DeployOptions = field(default_factory=DeployOptions)


Options = Union[TrainOptions, TestOptions]
