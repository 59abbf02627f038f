"""English instructions from templates; every one names exactly one piece of furniture of its house.

The language is small on purpose (well under 250 words): a tokenizer and a model of a few million parameters learn it.
"""

import random
import re
from collections.abc import Iterator, Sequence
from itertools import product

from pgn_vln.navigation.furniture import KINDS
from pgn_vln.navigation.houses import ROOM_TYPES

# {object}: colour and noun. {start}, {middle}, {other}, {target}: rooms in the order one walks through them.
_WALK = ("walk to", "go to", "head to", "move to", "go over to", "approach", "make your way to")
_FIND = ("find", "look for", "search for", "locate")
_END = ("stop next to it", "stop there", "stop in front of it", "wait there", "stop beside it", "wait next to it")
_ARRIVE = ("stop at", "wait by", "stop next to", "stop in front of", "wait near", "walk to", "go to", "stop beside")
_LEAVE = ("leave", "exit", "walk out of", "go out of")
_ENTER = ("go into", "walk into", "enter", "head into")
_PASS = ("go through", "walk through", "cross", "pass through")

SAME_ROOM_TEMPLATES = (
    "{walk} the {object}",
    "{walk} the {object} and {end}",
    "{find} the {object}",
    "{find} the {object} and {end}",
    "{find} the {object}, then {walk} it and stop",
    "turn until you see the {object}, then {walk} it",
    "{arrive} the {object}",
)
# Keyed by the number of doors on the way.
ROUTE_TEMPLATES = {
    1: (
        "{leave} the {start} through the door and {arrive} the {object}",
        "{leave} the {start}, {enter} the {target} and {arrive} the {object}",
        "{enter} the {target} and {arrive} the {object}",
        "go through the door to the {target}, then {walk} the {object}",
        "{walk} the {object} in the {target}",
        "{find} the door to the {target}, {enter} the {target} and {find} the {object}",
        "{leave} the {start} and {find} the {object} in the {target}, then {end}",
    ),
    2: (
        "{leave} the {start}, {pass} the {middle} into the {target} and {arrive} the {object}",
        "{pass} the {middle} to the {target}, then {walk} the {object}",
        "{enter} the {middle}, then {enter} the {target} and {arrive} the {object}",
        "{leave} the {start}, {enter} the {middle}, go on to the {target} and {find} the {object}",
    ),
    3: (
        "{leave} the {start}, {pass} the {middle} and the {other} into the {target} and {arrive} the {object}",
        "{pass} the {middle}, then {pass} the {other}, {enter} the {target} and {arrive} the {object}",
        "{enter} the {middle}, go on to the {other}, then {enter} the {target} and {find} the {object}",
    ),
}
MAX_DOORS = max(ROUTE_TEMPLATES)

_SLOTS = {
    "walk": _WALK, "find": _FIND, "end": _END, "arrive": _ARRIVE, "leave": _LEAVE, "enter": _ENTER, "pass": _PASS,
}  # fmt: skip
_SLOT = re.compile(r"\{(\w+)\}")


def object_names(kind: str, colour: str) -> tuple[str, ...]:
    """Everything that instructions call a piece of furniture, e.g. ``("blue sofa", "blue couch")``."""
    return tuple(f"{colour} {noun}" for noun in KINDS[kind].nouns)


def write_instruction(kind: str, colour: str, route: Sequence[str], rng: random.Random) -> str:
    """Word an instruction.

    Args:
        kind: Kind of the target.
        colour: Colour of the target.
        route: Room names from the start's room to the target's, both included; one name if they are the same.
        rng: Chooses the words.

    Raises:
        ValueError: if the route passes more doors than there are templates for.
    """
    doors = len(route) - 1
    if doors > MAX_DOORS or doors < 0:
        raise ValueError(f"route {list(route)} passes {doors} doors, expected 0 to {MAX_DOORS}; choose another target")
    templates = ROUTE_TEMPLATES[doors] if doors else SAME_ROOM_TEMPLATES
    fixed = {"object": rng.choice(object_names(kind, colour))} | _route_slots(route)
    template = rng.choice(templates)
    return _SLOT.sub(lambda slot: fixed.get(slot[1]) or rng.choice(_SLOTS[slot[1]]), template)


def _route_slots(route: Sequence[str]) -> dict[str, str]:
    slots = {"start": route[0], "target": route[-1]}
    if len(route) > 2:
        slots["middle"] = route[1]
    if len(route) > 3:
        slots["other"] = route[2]
    return slots


def language_corpus() -> list[str]:
    """Sentences that contain every template, every phrase in every slot, and every name of every object and room.

    They cover each template with each object name; rooms and phrases are cycled, because all combinations would be
    millions. The order is fixed. A tokenizer trained on them knows every instruction that can be written.
    """
    names = [
        name for kind in KINDS.values() for colour in kind.colours for name in object_names(kind.name, colour)
    ]  # fmt: skip
    templates: list[tuple[int, str]] = [(0, template) for template in SAME_ROOM_TEMPLATES]
    templates += [(doors, template) for doors, group in ROUTE_TEMPLATES.items() for template in group]
    sentences, turn = [], 0
    for (doors, template), name in product(templates, names):
        rooms = [ROOM_TYPES[(turn + offset) % len(ROOM_TYPES)] for offset in range(doors + 1)]
        sentences.append(_fill(template, {"object": name} | _route_slots(rooms), turn))
        turn += 1
    return sentences


def _fill(template: str, fixed: dict[str, str], turn: int) -> str:
    """Fill a template with the `turn`-th phrase of every slot."""
    counter: Iterator[int] = iter(range(turn, turn + template.count("{")))

    def phrase(slot: re.Match[str]) -> str:
        if slot[1] in fixed:
            return fixed[slot[1]]
        choices = _SLOTS[slot[1]]
        return choices[next(counter) % len(choices)]

    return _SLOT.sub(phrase, template)
