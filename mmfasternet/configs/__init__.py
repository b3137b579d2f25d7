"""The configs for those in MMEngine's pure Python style.

``with read_base(): from mmfasternet.configs.NAME import *`` takes one over.
"""
