"""The Hugging Face Trainer on rows from a file; runs in the environment of the peers and imports nothing of FedMTL.

`python benchmarks/hugging_face.py JOB`, where JOB is a JSON file with rows of token ids, labels and settings. Prints
one JSON line: samples, seconds, processor seconds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

Row = dict[str, Any]


class Rows(Dataset[Row]):
    """Token ids and labels."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]


def main() -> None:
    """Train, after a few steps of warm-up, and say how long it took."""
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    config = BertConfig(
        num_hidden_layers=2,
        hidden_size=128,
        num_attention_heads=2,
        intermediate_size=512,
    )

    def collate(rows: list[Row]) -> dict[str, torch.Tensor]:
        length = max(len(row["ids"]) for row in rows) if job["padding"] == "dynamic" else 128
        ids = torch.zeros((len(rows), length), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row["ids"])] = torch.tensor(row["ids"])
            mask[number, : len(row["ids"])] = 1
        labels = torch.tensor([int(row["label"]) for row in rows])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    with tempfile.TemporaryDirectory() as folder:

        def trainer(steps: int) -> Any:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=job["batch_size"],
                learning_rate=job["learning_rate"],
                num_train_epochs=job["epochs"],
                max_steps=steps,
                weight_decay=0.0,
                logging_strategy="no",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                remove_unused_columns=False,
                use_cpu=True,
                bf16=job["precision"] == "bfloat16",
            )
            return Trainer(model=model, args=arguments, train_dataset=Rows(job["rows"]), data_collator=collate)

        model = BertForSequenceClassification(config)
        trainer(5).train()
        timed = trainer(-1)
        wall, cpu = time.perf_counter(), time.process_time()
        timed.train()
        result = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps(result | {"samples": job["epochs"] * len(job["rows"])}))


if __name__ == "__main__":
    main()
