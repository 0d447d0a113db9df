"""Repositories: a directory, or a repository of the Hugging Face Hub, with the same interface."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from convnext_keras.checkpoints import WeightsError, download
from convnext_keras.checkpoints.download import VerifiedFile
from convnext_keras.checkpoints.formats import CONVERT_HINT
from convnext_keras.checkpoints.shards import INDEX_PATTERN, shard_names

HUB = "hf://"
REPO_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")


class Repository(NamedTuple):
    """Files of one model: a directory or a Hub repository.

    Attributes:
        name: Name as the user gave it: `hf://owner/name`, with `@revision` if one is wanted, or the path of a folder.
        folder: Its path, None on the hub.
        owner_and_name: Owner and name on the hub, empty for a folder.
        revision: Revision on the hub: branch, tag or commit; empty for the main branch.
    """

    name: str
    folder: Path | None
    owner_and_name: str = ""
    revision: str = ""

    def find(self, file: str) -> Path | None:
        """Returns the local path of a file, downloaded if need be; None if the repository does not have it.

        Raises:
            WeightsError: If it cannot be had.
        """
        if self.folder:
            path = self.folder / file
            return self._inside(path) if path.is_file() else None
        try:
            found = download.find_on_hub(self.owner_and_name, file, self.revision)
        except OSError as error:
            raise WeightsError(f"{self.name}: {error}") from error
        return found and found.path

    def require(self, files: Sequence[str]) -> VerifiedFile:
        """Returns the first file of some names that there is; of an index, its shards too.

        Raises:
            WeightsError: If there is none, or it cannot be had.
        """
        if self.folder:
            present = [path for path in (self.folder / file for file in files) if path.is_file()]
            if not present:
                raise WeightsError(f"{self.name}: has none of {' or '.join(files)}.{self._convert_hint()}")
            return VerifiedFile(self._inside(present[0]), download.file_sha256(present[0]))
        try:
            found = download.fetch_from_hub(self.owner_and_name, files, self.revision)
            for shard in shard_names(found.path) if INDEX_PATTERN.fullmatch(found.path.name) else ():
                download.fetch_from_hub(self.owner_and_name, [shard], self.revision)
        except OSError as error:
            raise WeightsError(f"{self.name}: {error}") from error
        return found

    def _inside(self, path: Path) -> Path:
        """Returns a path in the folder that is no link to elsewhere, except into the store of the hub's own cache."""
        folder, target = path.parent.resolve(), path.resolve()
        blobs = folder.parents[1] / "blobs" if len(folder.parents) > 1 else folder
        if target.parent not in (folder, blobs):
            raise WeightsError(f"{path}: is a link to elsewhere, which is never followed.")
        return path

    def _convert_hint(self) -> str:
        names = sorted(path.name for path in (self.folder or Path()).iterdir() if path.suffix in PICKLES)
        return f" Convert {names[0]} once by {CONVERT_HINT}." if names else ""


def parse_repository(name: str | os.PathLike) -> Repository | None:
    """Returns the repository of a name: `hf://owner/name[@revision]` or a directory; None for other names.

    Raises:
        ValueError: If it begins with `hf://` and is not valid.

    Example:
        >>> parse_repository("hf://timm/convnext_atto.d2_in1k@main").owner_and_name
        'timm/convnext_atto.d2_in1k'
    """
    if str(name).startswith(HUB):
        match = REPO_NAME.fullmatch(str(name))
        if not match or ".." in str(name):
            raise ValueError(
                f"A repository of the hub is hf://owner/name or hf://owner/name@revision. Received: {name}"
            )
        return Repository(str(name), None, match[1], match[2] or "")
    return Repository(str(name), Path(name)) if Path(name).is_dir() else None
