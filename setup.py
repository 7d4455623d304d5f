"""Builds the native library, a plain shared library inside the package; metadata is in setup.cfg.

It has no Python symbols, so one build serves every Python. Where there is no C++ compiler the installation
succeeds without it, and the reference kernels run.
"""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("quantize/csrc")
SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
# No contraction of a * b + c: the epilogue rounds as the float layers do.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off"]
FLAGS += ["-fno-strict-aliasing"]  # words of bits are read as 32-bit halves too
FLAGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # GCC 12's own AVX-512 headers


class BuildLibrary(build_ext):
    """Names the extension as a library and exports what its header says, not a module's init function."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + SUFFIX

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


try:
    from setuptools.command.bdist_wheel import bdist_wheel

    class PlatformWheel(bdist_wheel):
        """For any Python 3 of the platform."""

        def get_tag(self) -> tuple[str, str, str]:
            return "py3", "none", super().get_tag()[2]

    COMMANDS = {"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel}
except ImportError:
    COMMANDS = {"build_ext": BuildLibrary}

setup(
    ext_modules=[
        Extension(
            "quantize.libxnorkit",
            sources=sorted(str(path) for path in SOURCES.rglob("*.cc")),
            depends=sorted(str(path) for path in [*SOURCES.rglob("*.h"), *SOURCES.rglob("*.inc")]),
            include_dirs=[str(SOURCES)],
            language="c++",
            extra_compile_args=FLAGS,
            optional=True,
        )
    ],
    cmdclass=COMMANDS,
)
