"""One process at a time trains in a run's folder; the kernel frees it when that process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self, final

from distill3d.errors import InputError, TrainingError

NAME = ".lock"
_HOLDER = re.compile(r"\d+ on [\w.-]+")
_HELD = (errno.EACCES, errno.EAGAIN)


def seems_held(path: Path) -> bool:
    """Whether a lock's file is there and its process lives, as far as this machine knows; nothing is locked by asking.

    Args:
        path: of the file, `NAME` in a run's folder.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    pid, _, host = text.partition(" on ")
    if not _HOLDER.fullmatch(text) or host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, and is another user's
    return True


@final
class FolderLock:
    """A folder that is held from `acquire` to the end of the block; its file is gone then.

    Not `filelock`: what it takes is shared with forked data workers, which outlive a killed process for seconds.

    Args:
        folder: made by `acquire`.
        shown: what the error names in its place.
        work: what whoever holds it does, for the error.
        elsewhere: sets another folder, for the error.
    """

    _here: ClassVar[set[Path]] = set()  # the kernel tells processes apart, not the threads of one

    def __init__(
        self, folder: Path, *, shown: Path | None = None, work: str = "trains in it", elsewhere: str = "runs=PATH"
    ) -> None:
        self.folder, self.path = folder, folder / NAME
        self._shown, self._work, self._elsewhere = shown or folder, work, elsewhere
        self._key = self.path
        self._file: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if isinstance(error, Exception):
                self.check()  # a missing folder is why, whatever failed
        finally:
            self.release()

    def refuse_if_held(self) -> None:
        """Refuse a folder that another process trains in; nothing is written.

        Raises:
            InputError: it is held.
        """
        if self.path.is_file() and self._file is None:
            self.acquire()
            self.release()

    def acquire(self) -> None:
        """Take the folder.

        Raises:
            InputError: another process holds it, or it cannot be written.
        """
        self._key = self.path.resolve()
        if self._key in self._here:
            raise InputError(self._refusal(str(os.getpid())))
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            except OSError as err:
                reason = f"cannot be written ({err.strerror})"
                raise InputError(f"{self._shown}: {reason}; accepted: {self._elsewhere} of a folder that can") from err
            self._lock(self._file)
            if self.is_held():
                break
            os.close(self._file)  # whoever held it has removed the file meanwhile
        self._here.add(self._key)
        with contextlib.suppress(OSError):  # a full disk; it is only for others to read
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()} on {socket.gethostname()}".encode())

    def _lock(self, file: int) -> None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            if err.errno not in _HELD:
                return  # a file system without locks
            holder = _HOLDER.match(os.read(file, 200).decode(errors="replace"))
            os.close(file)
            self._file = None
            raise InputError(self._refusal(holder[0] if holder else "unknown")) from err

    def _refusal(self, holder: str) -> str:
        return f"{self._shown}: process {holder} {self._work}; accepted: wait for its end, or another {self._elsewhere}"

    def is_held(self) -> bool:
        """Whether the folder is still the one that was taken: not removed, nor another one in its place."""
        try:
            return self._file is not None and os.path.samestat(os.fstat(self._file), self.path.stat())
        except FileNotFoundError:
            return False

    def check(self) -> None:
        """Go on only in the folder that was taken, if one was.

        Raises:
            TrainingError: it has been removed or replaced.
        """
        if self._file is not None and not self.is_held():
            raise TrainingError(f"{self.folder}: was removed while it was trained in; nothing more is written there")

    def release(self) -> None:
        """Let go of the folder, if it is held."""
        if self._file is None:
            return
        if self.is_held():
            self.path.unlink()
        self._here.discard(self._key)
        os.close(self._file)
        self._file = None
