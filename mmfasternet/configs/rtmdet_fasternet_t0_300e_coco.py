"""The config of this name, for configs in MMEngine's pure Python style."""
globals().update(__import__('mmfasternet.config_files').config_files.config_entries(__file__))
