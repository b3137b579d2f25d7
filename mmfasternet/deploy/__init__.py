from .conversion import to_deploy
from .deployed_block import DeployedBlock
from .export.exported_classifier import ExportedClassifier
from .export.exported_detector import ExportedDetector

__all__ = ['DeployedBlock', 'ExportedClassifier', 'ExportedDetector', 'to_deploy']
