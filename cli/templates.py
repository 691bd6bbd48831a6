"""What mode init writes: a configuration and the commands to type, for rows of four sorts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """A federation over rows of one sort."""

    says: str
    """What rows are, in a few words."""
    body: str
    """The sections `model`, `tasks` and `training` of the configuration, YAML."""
    replace: str
    """How a person puts rows of their own in place of the generated ones."""

    def config(self, sites: Sequence[str]) -> str:
        """The configuration, for sites whose rows lie in `sites/`."""
        places = "\n".join(f"    {site}: sites/{site}" for site in sites)
        head = f"# {self.says}.\n# Every other key has its default. Paths start from this folder.\n"
        blend = "blend: true  # sites answer with the shared model and one of their own together, for twice the work\n"
        return f"{head}{self.body}{blend}simulation:\n  sites:\n{places}\nfederation:\n  min_clients: {len(sites)}\n"

    def readme(self, config: str, tasks: Sequence[str], sites: Sequence[str]) -> str:
        """The commands to type in the folder, Markdown."""
        names = ",".join(tasks)
        lines = [
            "# A federation to start from",
            "",
            f"{self.says}. The rows in `sites/` are generated. Type these in this folder.",
            "",
            "All sites in one process, then the scores as a page, and a comparison with every site alone:",
            "",
            "```sh",
            f"fedmtl simulate --config {config} --run_dir run",
            "fedmtl report --run_dir run",
            f"fedmtl compare --config {config} --methods local,hard",
            "```",
            "",
            "The same with a coordinator and one client per site, each in a terminal of its own:",
            "",
            "```sh",
            f"fedmtl server --config {config}",
            *(
                f"fedmtl client --config {config} --client_id {site} --tasks {names} --data_dir sites/{site}"
                for site in sites
            ),
            "```",
            "",
            f"{self.replace} `fedmtl check --config {config} --tasks {names} --data_dir sites/{sites[0]}` says what is",
            "wrong with them, and what would leave that site.",
            "",
        ]
        return "\n".join(lines)


_TASKS = """tasks:
  fault: {type: classification, labels: [no, yes], metrics: [accuracy]}
  wear: {type: regression}
training:
  num_rounds: 5
  learning_rate: 1e-2
  batch_size: 16
"""

TEMPLATES = {
    "text": Template(
        "Two questions about texts",
        "model:\n  server_model: prajjwal1/bert-tiny\ntasks:\n  sst2: {}\n  qqp: {}\ntraining:\n  num_rounds: 5\n"
        "  learning_rate: 5e-4\n",
        "Put files of your own in place of `train.csv` and `validation.csv`.",
    ),
    "images": Template(
        "Two questions about images of one channel and 16 x 16 pixels",
        f"model:\n  server_model: conv2d\n  conv2d: {{shape: [1, 16, 16], filters: [8, 16]}}\n{_TASKS}",
        "Put arrays of your own, `x` and `y`, into the `.npz` files, or folders of image files beside them.",
    ),
    "sensors": Template(
        "Two questions about windows of 64 steps from two sensors",
        f"model:\n  server_model: conv1d\n  conv1d: {{shape: [64, 2], filters: [8, 16]}}\n{_TASKS}",
        "Put arrays of your own, `x` (rows, steps, sensors) and `y`, into the `.npz` files.",
    ),
    "table": Template(
        "Two questions about rows of a table with categories and gaps",
        "model:\n  server_model: tabular\n  tabular:\n    columns:\n      age: number\n      hours: log\n"
        f"      machine: [press, lathe, mill]\n      shift: [day, night]\n{_TASKS}",
        "Put tables of your own in place of the `.csv` files, with the columns that the configuration names.",
    ),
}
