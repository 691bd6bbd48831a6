"""The client side: without a job it adds a constant to what it got; with one it trains its task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict  # type: ignore[import-not-found, unused-ignore]
from flwr.clientapp import ClientApp  # type: ignore[import-not-found, unused-ignore]

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator, unused-ignore]
def train(message: Message, context: Context) -> Message:
    """Answer one message of the server."""
    arrays = message.content["arrays"]
    job = str(context.run_config["job"])
    if job:
        found, examples = work(Path(job), arrays, context, int(message.content["config"]["server-round"]))
    else:
        # A constant of its own: Flower names arrays by their content and does not send what the other side has.
        shift = 1e-3 * (1 + int(context.node_config["partition-id"]))
        found = ArrayRecord({name: Array(array.numpy() + np.float32(shift)) for name, array in arrays.items()})
        examples = 1
    content = RecordDict({"arrays": found, "metrics": MetricRecord({"num-examples": examples})})
    return Message(content=content, reply_to=message)


def work(folder: Path, arrays: ArrayRecord, context: Context, number: int) -> tuple[ArrayRecord, int]:
    """Score the received encoder, train it together with this client's head, keep the head; last, only score."""
    import torch  # a process per message: rounds without training need not pay for it

    from flowerapp.job import Job  # type: ignore[import-not-found, unused-ignore]

    torch.set_num_threads(1)
    job = Job.read(folder, int(context.node_config["partition-id"]))
    job.model.encoder.load_state_dict(arrays.to_torch_state_dict())
    if "head" in context.state:
        job.model.head.load_state_dict(context.state["head"].to_torch_state_dict())
    scores = job.score()
    with (folder / f"scores-{job.task}.jsonl").open("a") as file:
        file.write(json.dumps({"round": number - 1} | scores) + "\n")
    if number <= job.rounds:
        job.train(number)
    context.state["head"] = ArrayRecord(job.model.head.state_dict())
    return ArrayRecord(job.model.encoder.state_dict()), len(job.rows["train"])
