"""The watches of one host: armed, listed, disarmed; never more than `MAX_WATCHES`, and none outlives the host."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Final

from runtime.events.facts import WatchState
from runtime.host.api import Ack, Watch
from runtime.host.watch_aim import take_aim
from runtime.host.watching import Watcher, WatchPorts
from runtime.kernel.errors import Refused

MAX_WATCHES: Final = 16


class Watches:
    """Owns the watchers. ``changed`` is told whenever one of them shows something new."""

    def __init__(self, ports: WatchPorts) -> None:
        self._ports = ports
        self._armed: dict[str, Watcher] = {}
        self._arming: set[Path] = set()
        self._closed = False

    @property
    def states(self) -> tuple[WatchState, ...]:
        """All of them, oldest first."""
        return tuple(watcher.state for watcher in self._armed.values())

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """What goes on as long as something is watched."""
        return {watcher.task for watcher in self._armed.values() if watcher.task is not None}

    async def arm(self, intent: Watch) -> WatchState:
        """Watch a mission. Raises `MissionInvalid`, `InputsInvalid`, `Refused` ``WATCH_*``."""
        if len(self._armed) + len(self._arming) >= MAX_WATCHES:
            raise Refused("WATCH_LIMIT", f"{MAX_WATCHES} missions are being watched", hint="disarm one first")
        aim = await asyncio.to_thread(take_aim, intent, self._ports.ours)
        watch_id = self._ports.ids.uuid()
        watcher = Watcher(watch_id, replace(intent, path=str(aim.mission.path.absolute())), aim, self._ports)
        place = watcher.mission_path
        if place in self._arming or any(item.mission_path == place for item in self._armed.values()):
            raise Refused(
                "WATCH_ARMED", f"{aim.mission.name} is being watched already", where=str(place), hint="disarm it first"
            )
        self._arming.add(place)
        try:
            await watcher.arm()
        finally:
            self._arming.discard(place)
        if self._closed:
            await watcher.close()
            raise Refused("runtime_shutdown", "this process closed the store while the watch was being armed")
        self._armed[watch_id] = watcher
        self._ports.record("watch", target=watch_id, mission=aim.mission.name, reason=", ".join(aim.rules.paths))
        self._ports.changed()
        return watcher.state

    async def disarm(self, watch_id: str) -> Ack:
        """Stop watching; a run at work goes on."""
        watcher = self._known(watch_id)
        del self._armed[watch_id]
        run_id = watcher.state.active_run_id or ""
        await watcher.close()
        self._ports.record("unwatch", target=watch_id)
        self._ports.changed()
        return Ack(done=True, run_id=run_id, message=f"{watcher.state.mission} is not watched any more")

    def rearm(self, watch_id: str) -> Ack:
        """Let a suspended or failed watch go on from the files as they are now."""
        watcher = self._known(watch_id)
        done = watcher.rearm()
        if done:
            self._ports.record("rearm", target=watch_id)
        told = "watching again, from the files as they are now" if done else f"it is {watcher.state.status}"
        return Ack(done=done, run_id="", message=told)

    def _known(self, watch_id: str) -> Watcher:
        watcher = self._armed.get(watch_id)
        if watcher is None:
            raise Refused("WATCH_UNKNOWN", f"there is no watch {watch_id}")
        return watcher

    async def close(self) -> None:
        """End them all, those being armed included."""
        self._closed = True
        watchers, self._armed = list(self._armed.values()), {}
        await asyncio.gather(*(watcher.close() for watcher in watchers))
