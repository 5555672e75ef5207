"""The mission files runs were started from, byte for byte: a run can be explained after its file has changed."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.storage.reader import Reader
from runtime.storage.writer import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class MissionRecord:
    """One version of a mission file. ``path`` is where it was first seen."""

    mission_hash: str
    name: str
    version: str
    path: str
    source: bytes
    first_seen: str


def insert_mission(mission: MissionRecord) -> Statement:
    """Keeps the first record of a hash."""
    return (
        (
            "INSERT OR IGNORE INTO missions (mission_hash, name, version, path, source, first_seen)"
            " VALUES (?, ?, ?, ?, ?, ?)"
        ),
        (mission.mission_hash, mission.name, mission.version, mission.path, mission.source, mission.first_seen),
    )


class Missions:
    """Queries over recorded mission files."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def get(self, mission_hash: str) -> MissionRecord | None:
        row = await self._reader.fetch_one(
            "SELECT mission_hash, name, version, path, source, first_seen FROM missions WHERE mission_hash = ?",
            (mission_hash,),
        )
        if row is None:
            return None
        found, name, version, path, source, first_seen = row
        return MissionRecord(
            mission_hash=found, name=name, version=version, path=path, source=source, first_seen=first_seen
        )
