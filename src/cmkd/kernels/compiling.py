"""Compiles the C kernels once per machine, with the system's own compiler, and keeps the result."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "csrc"
COMPILERS = ("cc", "gcc", "clang")
# A compiler that takes longer than this is stuck; it takes about a second.
COMPILE_SECONDS = 120

_log = logging.getLogger(__name__)

# Neither errno nor floating-point traps are looked at, and both keep loops from being vectorised.
_FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
# Levels that torch itself distinguishes, so that one cache serves machines of different kinds.
_LEVELS = {"AVX512": ("-march=x86-64-v4", "-mprefer-vector-width=512"), "AVX2": ("-march=x86-64-v3",)}


class CannotCompile(Exception):
    """There is no compiled path on this machine; the message says why."""


def load_library() -> ctypes.CDLL:
    """Load the compiled kernels, after compiling them if no earlier process has.

    The result is kept in the folder `cmkd` of `XDG_CACHE_HOME` (default `~/.cache`), or for this process
    only where nothing can be written there.

    Raises:
        CannotCompile: No compiler, or it fails, or this system is not a POSIX one.
    """
    if os.name != "posix":
        raise CannotCompile(f"the C kernels are not built on {platform.system()}")
    level = _LEVELS.get(torch.backends.cpu.get_cpu_capability(), ())
    name = f"kernels-{_fingerprint((*_FLAGS, *level))}.so"
    folder = cache_folder()
    if folder is not None and (folder / name).exists():
        try:
            return ctypes.CDLL(str(folder / name))
        except OSError as error:
            _log.info("compiling the C kernels anew: %s", error)
    if folder is not None and os.access(folder, os.W_OK):
        return _compile(folder / name, level)
    with tempfile.TemporaryDirectory(prefix="cmkd-") as temporary:
        # The library stays mapped after its file is gone.
        return _compile(Path(temporary) / name, level)


def _compile(target: Path, level: tuple[str, ...]) -> ctypes.CDLL:
    compiler = _find_compiler()
    with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as temporary:
        made, library = Path(temporary) / "kernels.o", Path(temporary) / "kernels.so"
        reason = ""
        # The OpenMP runtime is not linked: its symbols are those of the one that torch has loaded, whose
        # threads are thus shared. Where they are not to be found, the kernels run on one thread.
        # Compilers older than these levels of x86-64 build for any of its processors.
        for extra in itertools.product(([*level], []), (["-fopenmp"], ["-fopenmp-simd"], [])):
            chosen = [*_FLAGS, *extra[0], *extra[1]]
            try:
                _run([compiler, *chosen, "-c", str(SOURCES / "kernels.c"), "-o", str(made)])
                _run([compiler, "-shared", *_unresolved(), str(made), "-o", str(library), "-lm"])
                loaded = ctypes.CDLL(str(library))
            except (CannotCompile, OSError) as error:
                reason = str(error)
                _log.info("C kernels with %s: %s", " ".join(chosen), reason)
                continue
            # In one step, so that another process finds all of it or nothing.
            library.replace(target)
            return loaded
    raise CannotCompile(reason)


def _unresolved() -> tuple[str, ...]:
    """Return what lets a library have symbols that are found only when it is loaded."""
    return ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()


def _find_compiler() -> str:
    for name in (os.environ.get("CC", ""), *COMPILERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise CannotCompile(f"no C compiler found (looked for $CC, {', '.join(COMPILERS)})")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(f"{command[0]}: {error}") from error
    if done.returncode:
        raise CannotCompile(f"{command[0]} failed: {done.stderr.strip()[-500:]}")


def cache_folder() -> Path | None:
    """Return the folder that compiled kernels are kept in, or None if there is none to be trusted."""
    try:
        folder = make_user_folder()
        # What is loaded from here runs: it must be ours, and nobody else's to write.
        if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
            return None
    except (OSError, RuntimeError):
        return None
    return folder


def make_user_folder() -> Path:
    """Return the folder of all that is kept for a user, made if need be.

    Nobody else may write to it, or what is compiled there is not trusted. `XDG_CACHE_HOME` counts if it is
    absolute, as its specification says.

    Raises:
        OSError: It cannot be made.
        RuntimeError: There is no home folder.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = (base if base.is_absolute() else Path.home() / ".cache") / "cmkd"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _fingerprint(flags: tuple[str, ...]) -> str:
    """Change with all that the compiled file depends on."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in {".c", ".h"}:
            digest.update(path.read_bytes())
    system = (platform.system(), platform.machine(), *platform.libc_ver(), torch.__version__)
    digest.update("\0".join([*system, *flags]).encode())
    return digest.hexdigest()[:16]
