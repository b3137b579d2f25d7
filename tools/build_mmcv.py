"""Build mmcv in the folder of its sources; `setup_env.py` runs this with the environment's Python.

The arguments are those of mmcv's own ``setup.py``, which runs in here. No source of mmcv is changed.
"""

import os
import runpy
import sys
from pathlib import Path

from torch.utils.cpp_extension import BuildExtension

#: Kernels whose helpers have the names of those in another file.
CLASHING = ('bezier_align', 'roi_align', 'roi_align_rotated', 'rotated_feature_align')
#: The last in their unit: they define macros, min and max.
MACROS = ('psamask', )


def units(sources):
    """Split C++ files into lists that are compiled as one file each.

    Most of the time of a small file is that of torch's headers (10 of 11 s), so that few units compile much faster.
    The bindings in ``pytorch/`` are one unit, the kernels in ``pytorch/cpu/`` another, but for those that clash.
    """
    kernels = [path for path in sources if path.parent.name == 'cpu']
    clashing = [path for path in kernels if path.stem in CLASHING]
    joined = sorted(set(kernels) - set(clashing), key=lambda path: (path.stem in MACROS, path))
    split = [sorted(set(sources) - set(kernels)), joined, *([path] for path in sorted(clashing))]
    return [unit for unit in split if unit]


def join(sources, folder):
    """Write a file for each unit, which includes its sources; return the files' paths.

    A file that is as it should be is left alone, so that an interrupted build goes on.
    """
    files = []
    for unit in units([Path(source) for source in sources]):
        # setuptools sorts sources by name, and ninja starts them in that order: the largest is to be the first.
        file = folder / ('_'.join((f'{99 - len(unit):02}', unit[0].parent.name, unit[0].stem)) + '.cpp')
        text = ''.join(f'#include "{path.resolve()}"\n' for path in unit)
        if not file.exists() or file.read_text() != text:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        files.append(str(file))
    return files


def main():
    build = BuildExtension.build_extensions

    def build_extensions(self):
        for extension in self.extensions:
            # mmcv asks for C++17, which the headers of torch 2.14 refuse. Where no standard is named, torch's build
            # names that of its own headers, to the compiler and to nvcc.
            for flags in extension.extra_compile_args.values():
                flags[:] = [flag for flag in flags if not flag.startswith('-std=')]
            # On a GPU nvcc's files take the time, and joined files were not tried there.
            if not any(source.endswith('.cu') for source in extension.sources):
                # Includes by name, such as "pytorch_cpp_helper.hpp", are looked up from each source's own folder.
                extension.sources = join(extension.sources, Path('build', 'units'))
        build(self)

    BuildExtension.build_extensions = build_extensions
    sys.argv[0] = 'setup.py'
    sys.path[0] = os.getcwd()
    runpy.run_path('setup.py', run_name='__main__')


if __name__ == '__main__':
    main()
