"""The server side: Flower's own FedAvg; the moment each round ends is written to a file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context  # type: ignore[import-not-found, unused-ignore]
from flwr.serverapp import Grid, ServerApp  # type: ignore[import-not-found, unused-ignore]
from flwr.serverapp.strategy import FedAvg  # type: ignore[import-not-found, unused-ignore]

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator, unused-ignore]
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg over all clients, as soon as all of them are there."""
    config: dict[str, Any] = context.run_config

    def mark(number: int, arrays: ArrayRecord) -> None:
        with Path(config["marks"]).open("a") as file:
            file.write(json.dumps({"round": number, "at": time.time()}) + "\n")

    clients = int(config["clients"])
    while len(list(grid.get_node_ids())) < clients:
        time.sleep(0.1)
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=clients)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({name: Array(values) for name, values in np.load(config["state"]).items()}),
        num_rounds=int(config["rounds"]),
        evaluate_fn=mark,
    )
