"""One parser for every script and command: dataclasses, filled from a YAML recipe and command-line overrides."""

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from trl import TrlParser


def parse_arguments(dataclass_types: Sequence[type], argv: Sequence[str] | None = None, prog: str | None = None):
    """Dataclass instances from ``[RECIPE.yaml] [--field value …]``; the command line wins over the recipe.

    Raises:
        SystemExit: with one plain sentence on standard error, for a recipe that is missing, is not YAML or names
            unknown fields, and for values a dataclass refuses.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = TrlParser(list(dataclass_types), prog=prog)
    try:
        if argv and not argv[0].startswith("-"):
            recipe = argv.pop(0)
            if not Path(recipe).is_file():
                raise ValueError(f"the recipe {recipe!r} does not exist; give the path of a YAML file")
            argv = ["--config", recipe, *argv]
        return parser.parse_args_and_config(argv)
    except (ValueError, yaml.YAMLError) as error:
        parser.exit(2, f"error: {error}\n")
