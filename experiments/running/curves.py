"""TensorBoard curves, written in the calling thread, so that a full disk is an error and not a silence."""

import socket
import tempfile
import time
from pathlib import Path

from etils import epath
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from diffrec_jax import files

VERSION = "brain.Event:2"  # of the file format


class Curves:
    """Scalars over steps in one new event file. On a remote store the file is written here and put there whole."""

    def __init__(self, folder: epath.Path, *, purge_step: int) -> None:
        """Begin a file.

        Args:
          folder: of TensorBoard.
          purge_step: what earlier files of the folder hold from this step on is hidden.

        Raises:
          OSError: if it cannot be written; so does everything below.
        """
        self._folder = folder
        self._here = tempfile.TemporaryDirectory() if files.is_remote(folder) else None
        with files.explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            earlier = [int(file.name.split(".")[3]) for file in folder.glob("events.out.tfevents.*")]
            order = max([int(time.time()), *(number + 1 for number in earlier)])  # by name, even if the clock went back
            name = f"events.out.tfevents.{order:010d}.{socket.gethostname()}"
            self._file = Path(self._here.name if self._here else folder) / name
            self._writer = RecordWriter(str(self._file))
        self._write(Event(file_version=VERSION, step=purge_step))
        self._write(Event(session_log=SessionLog(status=SessionLog.START), step=purge_step))

    def add(self, step: int, values: dict[str, float]) -> None:
        """One point of each of several curves."""
        for name, value in values.items():
            self._write(Event(summary=summary.scalar(name, value), step=step))

    def flush(self) -> None:
        """Put where it belongs what was added."""
        with files.explained(self._folder):
            self._writer.flush()
            if self._here:
                (self._folder / self._file.name).write_bytes(self._file.read_bytes())

    def close(self) -> None:
        """Flush, and end."""
        self.flush()
        self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with files.explained(self._folder):
            self._writer.write(event.SerializeToString())
