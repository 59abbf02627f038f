"""The command `pgn`: everything that is not a train script."""

import importlib
import logging
import sys
from collections.abc import Sequence

COMMANDS = {
    ("new",): ("new", "write an untrained tiny PGN"),
    ("convert", "from-parts"): ("convert_from_parts", "language model + vision tower + Q-Former -> PGN"),
    ("convert", "from-original"): ("convert_from_original", "a .pth of the original PGN -> PGN"),
    ("convert", "to-original"): ("convert_to_original", "PGN -> a .pth of the original PGN"),
    ("convert", "to-lavis"): ("convert_to_lavis", "vision tower and Q-Former of a PGN -> a .pth of LAVIS"),
    ("convert", "inspect"): ("convert_inspect", "what is in a file or folder of weights"),
    ("episodes", "generate"): ("generate_episodes", "expert episodes in built-in houses"),
    ("episodes", "validate"): ("validate_episodes", "check a folder of episodes"),
    ("evaluate", "grounding"): ("evaluate_grounding", "what a checkpoint can name, in unseen houses"),
    ("evaluate", "vln"): ("evaluate_vln", "a checkpoint in unseen houses, beside baselines"),
}


def usage() -> str:
    """What `pgn --help` says."""
    lines = [f"  pgn {' '.join(words):<22} {about}" for words, (_, about) in COMMANDS.items()]
    return "\n".join(["usage: pgn COMMAND [RECIPE.yaml] [--field value ...]", "", *lines, "", "pgn COMMAND --help"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input ends with one plain sentence and exit status 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    words = next((words for words in COMMANDS if tuple(argv[: len(words)]) == words), None)
    if words is None and (not argv or {"-h", "--help", "help"} & set(argv)):
        print(usage())
        return 0
    if words is None:
        print(f"error: no command {' '.join(argv[:2])!r}\n\n{usage()}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    # Imported only now: `pgn --help` shall not load torch.
    from pgn_vln.arguments import parse_arguments, plain_errors

    command = importlib.import_module(f"pgn_vln.commands.{COMMANDS[words][0]}")
    rest = _with_flag(argv[len(words) :], getattr(command, "POSITIONAL", None))
    (args,) = parse_arguments((command.Arguments,), rest, prog=f"pgn {' '.join(words)}")
    with plain_errors():
        command.run(args)
    return 0


def _with_flag(arguments: list[str], field: str | None) -> list[str]:
    """Give the one argument that needs no flag its flag, where it stands first or last.

    A recipe, if such a command has one, is given with --config.
    """
    if field is None or f"--{field}" in arguments or not arguments:
        return arguments
    if not arguments[0].startswith("-"):
        return [f"--{field}", *arguments]
    if len(arguments) > 2 and not arguments[-1].startswith("-") and not arguments[-2].startswith("-"):
        return [*arguments[:-1], f"--{field}", arguments[-1]]
    return arguments


if __name__ == "__main__":
    sys.exit(main())
