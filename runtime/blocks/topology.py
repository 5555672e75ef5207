"""Graph questions answered on plain names. Pure; every order derives from the order of its arguments."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

Successors = Mapping[str, Sequence[str]]


def reachable(successors: Successors, start: Iterable[str]) -> set[str]:
    """All names that can be reached from ``start``, itself included."""
    seen = set(start)
    queue = deque(seen)
    while queue:
        for name in successors.get(queue.popleft(), ()):
            if name not in seen:
                seen.add(name)
                queue.append(name)
    return seen


def reversed_graph(successors: Successors) -> dict[str, list[str]]:
    """Predecessors per name."""
    result: dict[str, list[str]] = {}
    for source, targets in successors.items():
        for target in targets:
            result.setdefault(target, []).append(source)
    return result


def ancestors(predecessors: Successors, name: str) -> set[str]:
    """Everything upstream of ``name``; ``name`` itself only when it lies on a cycle."""
    return reachable(predecessors, predecessors.get(name, ()))


def levels(successors: Successors, order: Sequence[str], within: set[str]) -> list[list[str]] | None:
    """Level(entry)=0, level(n)=1+max of its predecessors, by Kahn in registration order; None for a cycle."""
    pending = {name: 0 for name in order if name in within}
    for source in pending:
        for target in successors.get(source, ()):
            if target in pending:
                pending[target] += 1
    depth = {name: 0 for name, count in pending.items() if count == 0}
    queue = deque(depth)
    done = 0
    while queue:
        name = queue.popleft()
        done += 1
        for target in successors.get(name, ()):
            if target not in pending:
                continue
            depth[target] = max(depth.get(target, 0), depth[name] + 1)
            pending[target] -= 1
            if pending[target] == 0:
                queue.append(target)
    if done < len(pending):
        return None
    result: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for name in pending:
        result[depth[name]].append(name)
    return result


def find_cycle(successors: Successors, order: Sequence[str]) -> list[str] | None:
    """One cycle as names, first name repeated at the end; None when there is none. Iterative: graphs may be deep."""
    finished: set[str] = set()
    for start in order:
        if start in finished:
            continue
        trail, position = [start], {start: 0}
        stack = [iter(successors.get(start, ()))]
        while stack:
            target = next(stack[-1], None)
            if target is None:
                stack.pop()
                done = trail.pop()
                del position[done]
                finished.add(done)
            elif target in position:
                return [*trail[position[target] :], target]
            elif target not in finished:
                position[target] = len(trail)
                trail.append(target)
                stack.append(iter(successors.get(target, ())))
    return None
