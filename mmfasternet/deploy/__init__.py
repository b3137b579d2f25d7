from .blocks import DeployedBlock
from .conversion import to_deploy
from .detector import DeployedDetector

__all__ = ['DeployedBlock', 'DeployedDetector', 'to_deploy']
