"""Networks that learn in a second what tests look at, in this process and in those that `forking` starts."""

import resource
from collections.abc import Callable
from dataclasses import replace

from tests import forking
from training.nets import encoder
from training.nets.backbones import BACKBONES, Plan

# The environment of a forked process whose networks are narrow.
NARROW_PROCESS = {forking.FIRST: f"{__name__}:widths_are_narrow"}
NARROW_WITHOUT_FIGURES = {forking.FIRST: f"{__name__}:figures_are_left_out"}
NARROW_ON_A_FULL_DISK = {forking.FIRST: f"{__name__}:disk_is_full"}
TILE = 8  # pixels that whitening sees at once


def narrowed(plan: Plan) -> Plan:
    """The same layers with an eighth of the channels."""
    convolutions = tuple(conv._replace(channels=conv.channels // 8) for conv in plan.convolutions)
    return replace(plan, convolutions=convolutions, hidden=128)


REAL = dict(BACKBONES)
NARROW = {name: narrowed(plan) for name, plan in BACKBONES.items()}


def widths_are_narrow(
    set_item: Callable[[dict[str, Plan], str, Plan], None] = dict.__setitem__,
    set_attribute: Callable[[object, str, object], None] = setattr,
) -> None:
    """All networks that are made from now on are narrow ones."""
    for name, plan in NARROW.items():
        set_item(BACKBONES, name, plan)
    set_attribute(encoder, "TILE", TILE)


def little_is_enough(
    set_attribute: Callable[[object, str, object], None] = setattr, *, steps: int = 20
) -> None:
    """A student learns from a few images too, in one step, a head in so many; there is little to choose."""
    from training import run
    from training.coding import learning, posterior

    set_attribute(run, "FEWEST", 50)
    set_attribute(run, "LEAST_STEPS", 1)
    set_attribute(learning, "LEAST_STEPS", steps)
    set_attribute(posterior, "DECAYS", posterior.DECAYS[1:2])
    set_attribute(posterior, "FOLDS", 2)


def figures_are_left_out() -> None:
    """And the tables of this process have none: they take longer than all else that it does."""
    from training.paper import report

    widths_are_narrow()
    for name in ("draw", "draw_curves"):
        setattr(report, name, lambda *_: None)


def disk_is_full() -> None:
    """And no file of this process may grow beyond 64 kB, as on a disk that is full."""
    widths_are_narrow()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
