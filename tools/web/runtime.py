"""onnxruntime-web, which the page runs on: the package of npm, fetched once and kept."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from training.data.decoded import cache_folder

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"  # that the tests run
# The runtime of the CPU alone, and the WebAssembly module that it loads from its own folder.
FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
OTHERWISE = f"or name the folder of the package {PACKAGE} with --runtime DIR"


def runtime_files(folder: Path | None = None) -> dict[str, bytes]:
    """The files of onnxruntime-web that a page needs, by their names.

    Args:
        folder: the package, of any version, or its files. None is the kept one, which npm fetches where there is none.

    Raises OSError, in one sentence, where they cannot be had.
    """
    if folder is None:
        return _kept()
    places = [place for place in (folder / "dist", folder) if all((place / name).is_file() for name in FILES)]
    if not places:
        raise FileNotFoundError(
            f"--runtime {str(folder)!r} has no {' and '.join(FILES)}; name the folder of the package {PACKAGE}, such "
            f"as node_modules/{PACKAGE} after npm install {PACKAGE}"
        )
    return {name: (places[0] / name).read_bytes() for name in FILES}


def _kept() -> dict[str, bytes]:
    cache = cache_folder()
    kept = cache / f"{PACKAGE}-{VERSION}" if cache else None
    if kept and all((kept / name).is_file() for name in FILES):
        return {name: (kept / name).read_bytes() for name in FILES}
    with tempfile.TemporaryDirectory() as scratch:
        found = _fetched(Path(scratch))
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
        for name, contents in found.items():
            with tempfile.NamedTemporaryFile(dir=kept, delete=False) as part:
                part.write(contents)
            Path(part.name).replace(kept / name)
    return found


def _fetched(scratch: Path) -> dict[str, bytes]:
    """The contents of ``FILES``, by npm, which checks what it fetches; and so do we."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(f"npm, which fetches {PACKAGE}, is not installed: install Node.js, {OTHERWISE}")
    command = [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    archives = list(scratch.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise OSError(f"npm could not fetch {PACKAGE}@{VERSION} ({said[0]}): try again, {OTHERWISE}")
    with tarfile.open(archives[0]) as archive:
        found = {name: archive.extractfile(f"package/dist/{name}").read() for name in FILES}
    for name, contents in found.items():
        if hashlib.sha256(contents).hexdigest() != FILES[name]:
            raise OSError(f"{name} of {PACKAGE}@{VERSION} is not the file that it was: try again, {OTHERWISE}")
    return found
