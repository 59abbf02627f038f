"""`pgn episodes validate`: read every episode and every frame of a folder, and say what is wrong."""

from dataclasses import dataclass, field

from modeling_pgn.prompting_pgn import action_names
from pgn_vln.data.episodes import validate_folder


@dataclass
class Arguments:
    """Arguments of `pgn episodes validate`."""

    folder: str = field(metadata={"help": "Folder of trajectories."})


def run(args: Arguments):
    """Report counts, the action histogram and each bad episode; exits with 1 if there is one."""
    report = validate_folder(args.folder)
    print(f"{args.folder}: {report.episodes} good episodes, {report.frames} frames, {len(report.bad)} bad episodes")
    for action, name in action_names().items():
        count = report.actions[action]
        print(f"  {name:<24} {count:>8}  {count / max(report.frames, 1):6.1%}")
    for bad in report.bad:
        print(f"  bad: {bad.file}: {bad.reason}")
    if report.bad:
        raise SystemExit(1)
