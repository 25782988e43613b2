"""Slots: which of a provider's numbered units a job gets. Bitmaps in, a bitmap out.

Units `k*group .. k*group+group-1` share an interconnect. A job stays inside one group if it can;
which group is the policy's choice. Knows no demand, no price and no time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from market.site import GROUP_UNITS

USUAL_SIZES: Mapping[int, float] = {1: 0.6, 2: 0.3, 4: 0.09, 8: 0.01}
"""How many units jobs ask for: the multi-GPU mix of Gavel's and Shockwave's traces."""


MIX_PRIOR = 20.0  # the usual sizes count as so many demands: a handful seen says little


def usual_sizes(seen: Mapping[int, float], total: int) -> dict[int, float]:
    """The mix that placement plans for: the sizes seen here, and the usual ones as a prior.

    `seen` counts demands by how many units they ask for. Sizes above `total` cannot be served here
    and do not count. The weights sum to 1.
    """
    counts = {size: MIX_PRIOR * weight for size, weight in USUAL_SIZES.items() if size <= total}
    for size, count in seen.items():
        if 0 < size <= total:
            counts[size] = counts.get(size, 0.0) + max(0.0, count)
    sum_ = sum(counts.values())
    return {size: count / sum_ for size, count in sorted(counts.items())} if sum_ else {}


def choose_units(
    taken: int,
    total: int,
    count: int,
    *,
    group: int = GROUP_UNITS,
    policy: str = "bestfit",
    sizes: Mapping[int, float] = USUAL_SIZES,
) -> int:
    """The bitmap of `count` free units out of `total`, or 0 where there are not so many.

    Inside one group where one has room: `bestfit` takes the group left with the fewest free units,
    `pack` the first used one, `spread` the emptiest, `fgd` the one whose loss strands the fewest
    units for the usual sizes. Over several groups otherwise, as few as possible. Inside a group it
    takes the smallest run of neighbours that suffices.
    """
    assert policy in SLOT_POLICIES, f"no placement is called {policy}"
    if count <= 0 or count > total - (taken & ((1 << total) - 1)).bit_count():
        return 0
    free = free_of_groups(taken, total, group)
    able = [index for index, room in enumerate(free) if room >= count]
    if able:
        best = min(able, key=lambda index: SLOT_POLICIES[policy](free, index, count, sizes, group))
        return _inside(taken, total, count, best * group, group)
    chosen = 0
    for index in sorted(range(len(free)), key=lambda one: (-free[one], one)):
        # The last piece goes where it fits tightest.
        if free[index] >= count:
            index = min(
                (
                    one
                    for one in range(len(free))
                    if free[one] >= count and not _has(chosen, one, group)
                ),
                key=lambda one: (free[one], one),
            )
        part = min(count, free[index])
        chosen |= _inside(taken, total, part, index * group, group)
        count -= part
        if not count:
            return chosen
    raise AssertionError("enough free units were counted")


def free_of_groups(taken: int, total: int, group: int) -> list[int]:
    """How many units of each group are free; the last group may be smaller."""
    return [
        (min(group, total - start))
        - ((taken >> start) & ((1 << min(group, total - start)) - 1)).bit_count()
        for start in range(0, total, group)
    ]


def stranded_units(free: int, sizes: Mapping[int, float]) -> float:
    """Expected units that the usual sizes cannot use in a group with `free` units left.

    The FGD measure for whole units: all of them for a size that does not fit, else none.
    """
    return sum(weight * free for size, weight in sizes.items() if size > free)


def _has(chosen: int, index: int, group: int) -> bool:
    return bool((chosen >> (index * group)) & ((1 << group) - 1))


def _inside(taken: int, total: int, count: int, start: int, group: int) -> int:
    """`count` free units of one group: the tightest run of neighbours, else the lowest ones."""
    end = min(start + group, total)
    free = [unit for unit in range(start, end) if not (taken >> unit) & 1]
    runs: list[list[int]] = []
    for unit in free:
        if runs and runs[-1][-1] == unit - 1:
            runs[-1].append(unit)
        else:
            runs.append([unit])
    fitting = [run for run in runs if len(run) >= count]
    units = min(fitting, key=lambda run: (len(run), run[0]))[:count] if fitting else free[:count]
    return sum(1 << unit for unit in units)


def _bestfit(
    free: Sequence[int], index: int, count: int, sizes: Mapping[int, float], group: int
) -> tuple[float, int]:
    return (free[index], index)


def _pack(
    free: Sequence[int], index: int, count: int, sizes: Mapping[int, float], group: int
) -> tuple[float, int]:
    return (0 if free[index] < group else 1, index)


def _spread(
    free: Sequence[int], index: int, count: int, sizes: Mapping[int, float], group: int
) -> tuple[float, int]:
    return (-free[index], index)


def _fgd(
    free: Sequence[int], index: int, count: int, sizes: Mapping[int, float], group: int
) -> tuple[float, int]:
    before, after = free[index], free[index] - count
    return (stranded_units(after, sizes) - stranded_units(before, sizes), index)


SLOT_POLICIES = {"bestfit": _bestfit, "pack": _pack, "spread": _spread, "fgd": _fgd}
