"""What TensorBoard would show of a folder of event files."""

import struct
from pathlib import Path

from tensorboardX.proto import event_pb2


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value. A writer that begins again at a step takes back what was written from there on, as in TensorBoard's reader."""
    found: dict[str, dict[int, float]] = {}
    for event in (event for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns) for event in _events(path)):
        if event.session_log.status == event_pb2.SessionLog.START:
            found = {tag: {step: value for step, value in steps.items() if step < event.step} for tag, steps in found.items()}
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def _events(path: Path):
    """The whole records of a file: length, its checksum, content, its checksum. The last may be cut off by a kill."""
    content, at = path.read_bytes(), 0
    while at + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        if at + 16 + length > len(content):
            return
        yield event_pb2.Event.FromString(content[at + 12:at + 12 + length])
        at += 16 + length
