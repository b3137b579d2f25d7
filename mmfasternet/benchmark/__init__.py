from .timing import LatencyRecord, measure

__all__ = ['LatencyRecord', 'measure']
