"""Unpack a data set's zip archive: nothing outside the target, no links, and all of it or nothing."""

import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tqdm.auto import tqdm

from ktda.errors import InputError

# What zipfile raises on damaged, encrypted or exotic archives.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, UnicodeDecodeError)


def unpack(archive: Path, out: Path, finish: Callable[[Path], None]) -> None:
    """Unpack beside ``out`` and rename when complete.

    The folder in the archive that holds ``img_dir`` becomes ``out``, whatever it is called and however deep it lies.

    Args:
        archive: A zip file.
        out: The root to be; it must not exist, or be empty.
        finish: Called with the unpacked root before it is renamed, to add files to it.

    Raises:
        InputError: The archive is damaged, unsafe (a name that leaves the target, a link), does not fit on the disk,
            or holds no data set or several.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [(info, _safe_parts(archive, info)) for info in opened.infolist()]
            members = [(info, parts) for info, parts in members if parts and parts[0] != "__MACOSX"]
            needed, free = sum(info.file_size for info, _ in members), shutil.disk_usage(out.parent).free
            if needed > free:
                raise InputError(
                    f"{out.parent}: the content of {archive.name} needs {needed / 1e9:.1f} GB, and "
                    f"{free / 1e9:.1f} GB are free"
                )
            beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
            try:
                for info, parts in tqdm(members, desc=f"unpacking {archive.name}", disable=None, leave=False):
                    target = beside.joinpath(*parts)
                    if info.is_dir():
                        target.mkdir(parents=True, exist_ok=True)
                        continue
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(info) as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)  # checks the CRC at the end
                root = _only_root(archive, beside)
                finish(root)
                if out.is_dir():
                    out.rmdir()  # empty, as promised; otherwise an OSError
                root.rename(out)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    except BROKEN as error:
        raise InputError(f"{archive}: damaged, or not a zip archive that can be read ({error})") from error
    except OSError as error:
        raise InputError(f"{archive}: cannot be unpacked to {out} ({error})") from error


def _safe_parts(archive: Path, info: zipfile.ZipInfo) -> tuple[str, ...]:
    """The member's path in parts; an ``InputError`` for everything that could leave the target folder."""
    name = info.filename.replace("\\", "/")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise InputError(f"{archive}: unsafe name {info.filename!r} in the archive; nothing was unpacked")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"{archive}: {info.filename!r} is a link or a device; nothing was unpacked")
    return parts


def _only_root(archive: Path, folder: Path) -> Path:
    roots = sorted(path.parent for path in folder.rglob("img_dir") if (path.parent / "ann_dir").is_dir())
    if len(roots) != 1:
        found = ", ".join(str(root.relative_to(folder)) for root in roots) or "none"
        raise InputError(f"{archive}: expected one folder with img_dir and ann_dir in the archive, found {found}")
    return roots[0]
