from .image_loading import LoadImageFromFile
from .seeding import SeedAugmentations, SeededSampler

__all__ = ['LoadImageFromFile', 'SeedAugmentations', 'SeededSampler']
