"""A C++ compiler that keeps what it has compiled: what has not changed since is copied.

    python kept_objects.py FOLDER COMPILER [ARGUMENT ...]

calls the compiler. An object (``-c``) is taken from FOLDER where the same compiler made it of the same source with the
same arguments and headers, those of all relative ``-I``; of each source the last one is kept.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path


def compiler(folder: Path, real: str) -> Path:
    """A program in ``folder`` that calls the compiler ``real`` so, and keeps objects in build/objects."""
    objects = Path(__file__).resolve().parent.parent / "build" / "objects"
    program = folder / "c++"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "{objects}" "{real}" "$@"\n')
    program.chmod(0o755)
    return program


def main(folder: Path, command: list[str]) -> int:
    """The compiler's exit code."""
    if "-c" not in command:
        return subprocess.call(command)
    source, made = (Path(command[command.index(flag) + 1]) for flag in ("-c", "-o"))
    kept = folder / f"{'-'.join(source.parts)}.{_digest(source, command)}.o"
    if kept.exists():
        shutil.copyfile(kept, made)
        return 0
    code = subprocess.call(command)
    if not code:
        _keep(made, kept)
    return code


def _digest(source: Path, command: list[str]) -> str:
    version = subprocess.run([command[0], "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(version + "\0".join(command).encode())
    folders = [Path(word[2:]) for word in command if word.startswith("-I") and not Path(word[2:]).is_absolute()]
    headers = (path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in (".h", ".inc"))
    for path in (source, *headers):
        digest.update(f"\0{path}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _keep(made: Path, kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    of_source = kept.name.split(".")[:-2]
    own = kept.with_suffix(f".{os.getpid()}")  # another process may do the same at the same time
    shutil.copyfile(made, own)
    os.replace(own, kept)
    for path in kept.parent.glob("*.o"):
        if path != kept and path.name.split(".")[:-2] == of_source:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
