"""`pgn episodes validate`: read every episode and every frame of a folder, and say what is wrong."""

from dataclasses import dataclass, field

from pgn_vln.data.episodes import validate_trajectories


@dataclass
class Arguments:
    """Arguments of `pgn episodes validate`."""

    dir: str = field(metadata={"help": "Folder of trajectories (traj_*.json and ep_*_images/)."})


def run(args: Arguments):
    """Print counts, the action histogram and each bad episode; exit with 1 if there is one."""
    report = validate_trajectories(args.dir)
    print(f"{args.dir}: {report}")
    if report.bad:
        raise SystemExit(1)
