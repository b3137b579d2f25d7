from .conversion import to_deploy
from .deployed_block import DeployedBlock
from .export.exported_detector import DeployedDetector

__all__ = ['DeployedBlock', 'DeployedDetector', 'to_deploy']
