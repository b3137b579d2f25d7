from .harness.timing import LatencyRecord, measure, measure_interleaved

__all__ = ['LatencyRecord', 'measure', 'measure_interleaved']
