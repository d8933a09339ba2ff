"""What Sphinx reads: a folder that mirrors the checkout, so that links between its pages stay what they are.

``docs/train.md`` and ``notebooks/05_training.ipynb`` lie where they lie in the checkout; ``README.md`` is the front
page ``index.md``, and ``ktda/losses.py`` leads to its page of the reference, ``api/ktda.losses.md``.
"""

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ktda_lab.book.executed import relinked


class Source:
    """The source folder of a book.

    Args:
        folder: Where it lies.
        root: The checkout that it mirrors.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.root = root
        self.written: set[Path] = set()

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file where its content is new: Sphinx reads again what has another time."""
        path, data = self.folder / name, content.encode() if isinstance(content, str) else content
        self.written.add(path)
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def page(self, name: str, orphan: bool = True) -> None:
        """Let a Markdown file of the checkout be a page; an orphan is in no table of contents."""
        if self.folder / name not in self.written:
            self.written.add(self.folder / name)  # before its links are followed, which may lead back here
            text = relinked((self.root / name).read_text(encoding="utf-8"), self.relink(name))
            self.write(name, f"---\norphan: true\n---\n{text}" if orphan else text)

    def relink(self, name: str) -> Callable[[str], str]:
        """What leads the links of the file `name` of the checkout to pages of the book, and brings what they need."""

        def lead(target: str) -> str:
            path, mark, anchor = target.partition("#")
            place = PurePosixPath(os.path.normpath(PurePosixPath(name).parent / path))
            if place == PurePosixPath("README.md"):
                return "/index.md"
            if place.parts[0] == "ktda" and place.suffix == ".py":
                return f"/api/{reference_page(module_name(place))}.md"
            if ".." not in place.parts and (self.root / place).is_file():
                if place.suffix == ".md":
                    self.page(place.as_posix())
                elif place.suffix != ".ipynb":  # executed ones are written anyway
                    self.write(place.as_posix(), (self.root / place).read_bytes())
            return f"/{place}{mark}{anchor}"

        return lead

    def close(self, book: Path) -> None:
        """Remove what an earlier report wrote and this one did not, and its page in `book`."""
        for path in [path for path in self.folder.rglob("*") if path.is_file() and path not in self.written]:
            path.unlink()
            (book / path.relative_to(self.folder).with_suffix(".html")).unlink(missing_ok=True)


def module_name(path: PurePosixPath) -> str:
    """``ktda/data/folder.py`` is `ktda.data.folder`."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def reference_page(module: str) -> str:
    """The room that a module is in, which has a page of the reference: `ktda.data` for `ktda.data.folder`."""
    return ".".join(module.split(".")[:2])
