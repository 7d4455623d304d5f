"""Builds the native library, a plain shared library inside the package, and lays the wheel out.

The library has no Python symbols, so one build serves every Python. Where there is no C++ compiler the installation
succeeds without it, and the reference kernels run. Metadata is in setup.cfg.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

SOURCES = Path("quantize/csrc")
SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
# No contraction of a * b + c: the epilogue rounds as the float layers do.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off"]
FLAGS += ["-fno-strict-aliasing"]  # words of bits are read as 32-bit halves too
FLAGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # GCC 12's own AVX-512 headers

# Folders of the clone whose names are too common for site-packages: in a wheel they stand in xnorkit/.
WITHIN_XNORKIT = ("training", "tools")
# Tools that write the pages of the repository or look after it: nothing to do without a clone.
OF_THE_CLONE = (
    *("tools/constraints.py", "tools/draw_schemes.py", "tools/draw_zoo.py", "tools/measure_web.py"),
    *("tools/ablations.py", "tools/reproduce.py", "tools/results.py", "tools/ship.py"),
    *("tools/moving_objects/classify_speed.py", "tools/moving_objects/picture.py"),
    *("tools/sweep_models.py", "tools/sweep_networks.py", "tools/sweep_page.py", "tools/zoo_page.py"),
)


class BuildLibrary(build_ext):
    """Names the extension as a library and exports what its header says, not a module's init function."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + SUFFIX

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        """Compiles as many sources at once as there are cores; setuptools does one after the other."""
        one_by_one = self.compiler.compile

        def compile_at_once(sources: list[str], **options) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                made = list(pool.map(lambda source: one_by_one([source], **options), sources))
            return [path for objects in made for path in objects]

        self.compiler.compile = compile_at_once
        super().build_extension(ext)


class BuildPackages(build_py):
    """Adds the trainer's script to the package ``xnorkit``, and leaves out what only a clone can use."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        modules = super().find_package_modules(package, package_dir)
        if package == "xnorkit":
            modules.append((package, "trainer_exp", "trainer_exp.py"))
        return [module for module in modules if Path(module[2]).as_posix() not in OF_THE_CLONE]


COMMANDS = {"build_ext": BuildLibrary, "build_py": BuildPackages}
try:
    from setuptools.command.bdist_wheel import bdist_wheel

    class PlatformWheel(bdist_wheel):
        """For any Python 3 of the platform."""

        def get_tag(self) -> tuple[str, str, str]:
            return "py3", "none", super().get_tag()[2]

    COMMANDS["bdist_wheel"] = PlatformWheel
except ImportError:
    pass

setup(
    packages=[
        *find_packages(include=["quantize*", "models*", "xnorkit"]),
        *(f"xnorkit.{name}" for name in find_packages(include=[f"{folder}*" for folder in WITHIN_XNORKIT])),
    ],
    package_dir={f"xnorkit.{folder}": folder for folder in WITHIN_XNORKIT},
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
