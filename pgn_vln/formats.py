"""Names in a folder of episodes, and marks in a card: what writes one and what reads one agree here."""

GENERATION_FILE = "generation.json"
TRAJECTORY_GLOB = "traj_*.json"


def trajectory_file(episode_id: str) -> str:
    """Name of the file with an episode's instruction and steps."""
    return f"traj_{episode_id}.json"


def images_folder(episode_id: str) -> str:
    """Name of the folder with an episode's frames."""
    return f"ep_{episode_id}_images"


def images_folder_id(name: str) -> str | None:
    """Undo `images_folder`; None if `name` is not the name of a folder with frames."""
    if not (name.startswith("ep_") and name.endswith("_images")):
        return None
    return name[len("ep_") : -len("_images")] or None


# In a model card, the table of what the model can name stands between two of these.
GROUNDING_MARK = "<!-- grounding -->"
