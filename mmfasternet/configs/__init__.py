"""The configs for those in MMEngine's pure Python style.

``with read_base(): from mmfasternet.configs.NAME import *`` takes one over. MMEngine executes such a module by its
path, and gives back lazy objects for what it imports: hence ``__import__`` in them.
"""
