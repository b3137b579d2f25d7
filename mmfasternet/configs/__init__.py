"""The configs as modules, for configs in MMEngine's pure Python style.

``with read_base(): from mmfasternet.configs.NAME import *`` inherits one. MMEngine executes such a module by its path,
and turns its imports into lazy objects: hence ``__import__`` in them.
"""
