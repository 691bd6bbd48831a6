"""One client's task as a plain loop of torch and transformers: dynamic padding, AdamW, clipped gradients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import BertWordPieceTokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

Row = dict[str, Any]


class Model(nn.Module):
    """A BERT encoder and a linear head; pairs are read text by text and compared."""

    def __init__(self, config: BertConfig, outputs: int, pair: bool) -> None:
        super().__init__()
        self.pair = pair
        self.encoder = BertModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.head = nn.Linear(4 * config.hidden_size + 1 if pair else config.hidden_size, outputs)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        if pair and outputs == 1:  # a regression over pairs starts from their cosine
            with torch.no_grad():
                self.head.weight.zero_()
                self.head.weight[:, -1] = 5.0

    def forward(self, first: dict[str, Tensor], second: dict[str, Tensor] | None) -> Tensor:
        """Outputs (rows, outputs)."""
        if second is None:
            vectors = self.encoder(**first).pooler_output
        else:
            u, v = self._mean(first), self._mean(second)
            cosine = functional.cosine_similarity(u, v, dim=-1).unsqueeze(-1)
            vectors = torch.cat([u, v, (u - v).abs(), u * v, cosine], dim=-1)
        outputs: Tensor = self.head(self.dropout(vectors))
        return outputs

    def _mean(self, texts: dict[str, Tensor]) -> Tensor:
        mask = texts["attention_mask"].unsqueeze(-1).float()
        hidden: Tensor = self.encoder(**texts).last_hidden_state
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


@dataclass
class Job:
    """A client's rows, model and settings."""

    task: str
    rounds: int
    settings: dict[str, Any]
    rows: dict[str, list[Row]]
    model: Model
    tokenizer: PreTrainedTokenizerFast

    @classmethod
    def read(cls, folder: Path, number: int) -> Job:
        """The job of client `number`, as `job.json` describes it."""
        settings = json.loads((folder / "job.json").read_text())
        task = settings["tasks"][number]
        words = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, pad_token="[PAD]")  # type: ignore[no-untyped-call]
        rows = json.loads((folder / f"{task['name']}.json").read_text())
        for split in rows.values():
            for field in ("text", "text_pair"):
                texts = [row[field] for row in split if row[field] is not None]
                ids = tokenizer(texts, truncation=True, max_length=settings["max_length"])["input_ids"] if texts else []
                for row, tokens in zip(split, ids, strict=False):
                    row[field] = tokens
        config = BertConfig(num_hidden_layers=2, hidden_size=128, num_attention_heads=2, intermediate_size=512)
        model = Model(config, task["outputs"], task["pair"])
        return cls(task["name"], settings["rounds"], settings, rows, model, tokenizer)

    def train(self, number: int) -> None:
        """The epochs of one round."""
        torch.manual_seed(self.settings["seed"] + number)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.settings["learning_rate"], weight_decay=0.0)
        self.model.train()
        for _ in range(self.settings["epochs"]):
            for first, second, labels in self._batches("train", self.settings["batch_size"], shuffle=True):
                optimizer.zero_grad()
                self._loss(self.model(first, second), labels).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()

    def score(self) -> dict[str, float]:
        """Metrics on the validation rows."""
        self.model.eval()
        outputs, labels = [], []
        with torch.inference_mode():
            for first, second, targets in self._batches("validation", 128, shuffle=False):
                outputs.append(self.model(first, second))
                labels.append(targets)
        return metrics(torch.cat(outputs).double().numpy(), torch.cat(labels).double().numpy())

    def _loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if outputs.shape[1] == 1:
            return functional.mse_loss(outputs.squeeze(-1), labels)
        return functional.cross_entropy(outputs, labels.long())

    def _batches(self, split: str, size: int, shuffle: bool) -> Iterator[Any]:
        collate: Callable[[list[Row]], object] = self._collate
        return iter(DataLoader(self.rows[split], batch_size=size, shuffle=shuffle, collate_fn=collate))  # type: ignore[arg-type]

    def _collate(self, rows: list[Row]) -> tuple[dict[str, Tensor], dict[str, Tensor] | None, Tensor]:
        first = self._padded([row["text"] for row in rows])
        second = self._padded([row["text_pair"] for row in rows]) if self.model.pair else None
        return first, second, torch.tensor([float(row["label"]) for row in rows])

    def _padded(self, ids: list[list[int]]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = dict(self.tokenizer.pad({"input_ids": ids}, return_tensors="pt"))
        return found


def metrics(outputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> dict[str, float]:
    """Accuracy and F1, or Pearson and Spearman."""
    if outputs.shape[1] == 1:
        predicted = outputs[:, 0]
        ranks = [_ranks(predicted), _ranks(labels)]
        return {
            "pearson": float(np.corrcoef(predicted, labels)[0, 1]),
            "spearman_mean": float(np.corrcoef(ranks[0], ranks[1])[0, 1]),
        }
    chosen = outputs.argmax(axis=1)
    hits = float(((chosen == 1) & (labels == 1)).sum())
    either = float((chosen == 1).sum() + (labels == 1).sum())
    return {"accuracy": float((chosen == labels).mean()), "f1": 2 * hits / either if either else 0.0}


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: np.ndarray[Any, Any] = (last - (counts - 1) / 2)[inverse]
    return means
