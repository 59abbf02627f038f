import random
import re

import pytest
from house_helpers import LEVEL_NAMES

from pgn_vln.navigation.furniture import KINDS
from pgn_vln.navigation.houses import ROOM_TYPES
from pgn_vln.navigation.instructions import language_corpus, object_names, write_instruction


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_exactly_one_object_of_the_house_fits(driven_by_level, level):
    for driven in driven_by_level[level]:
        episode = driven.episode
        fitting = [
            index
            for index, piece in enumerate(episode.house.furniture)
            if any(f"the {name}" in episode.instruction for name in object_names(piece.kind.name, piece.colour))
        ]
        assert fitting == [episode.target], episode.instruction


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_rooms_that_are_named_exist_and_lie_on_the_way(driven_by_level, level):
    named = 0
    for driven in driven_by_level[level]:
        house, text = driven.episode.house, driven.episode.instruction
        path = driven.episode.grid.shortest_path(driven.episode.start, driven.episode.goal)
        on_the_way = {house.rooms[house.room_at(x, y)].name for x, y in path}
        mentioned = {room for room in ROOM_TYPES if room in text}
        named += bool(mentioned)
        assert mentioned <= on_the_way, text
        if len(on_the_way) > 2:
            # Beyond one door the words have to tell the way.
            assert house.rooms[house.furniture[driven.episode.target].room].name in mentioned
    assert named == 0 if level == "one_room" else named > 40


def test_the_corpus_covers_every_word_that_can_be_written():
    corpus = language_corpus()
    words = {word for sentence in corpus for word in re.findall(r"[a-z]+", sentence)}
    assert len(words) < 150
    assert corpus == language_corpus()
    assert len(set(corpus)) > 1000
    assert not [sentence for sentence in corpus if "{" in sentence]
    rng = random.Random(0)
    written = set()
    for _ in range(4000):
        kind = KINDS[rng.choice(list(KINDS))]
        route = rng.sample(ROOM_TYPES, rng.randint(1, 4))
        text = write_instruction(kind.name, rng.choice(kind.colours), route, rng)
        written |= set(re.findall(r"[a-z]+", text))
        assert re.fullmatch(r"[a-z]+(,? [a-z]+)*", text), text
    assert written <= words
    # Nothing in the corpus that is never said.
    assert words <= written


def test_instructions_vary(driven_by_level):
    for walks in driven_by_level.values():
        assert len({driven.episode.instruction for driven in walks}) > 0.8 * len(walks)


def test_a_route_without_templates_is_refused():
    with pytest.raises(ValueError, match="passes 4 doors, expected 0 to 3"):
        write_instruction("chair", "red", ROOM_TYPES, random.Random(0))
