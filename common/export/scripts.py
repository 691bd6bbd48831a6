"""Scripts that lie in exported folders and need nothing but torch and transformers."""

from __future__ import annotations

PREDICT = '''"""Score texts with the model in this folder: python predict.py TEXT [SECOND TEXT]."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

FOLDER = Path(__file__).resolve().parent
HEAD = json.loads((FOLDER / "head.json").read_text(encoding="utf-8"))
LINEAR = load_file(str(FOLDER / "head.safetensors"))
TOKENIZER = AutoTokenizer.from_pretrained(str(FOLDER))
ENCODER = AutoModel.from_pretrained(str(FOLDER)).eval()


def encode(*texts):
    return TOKENIZER(*texts, truncation=True, max_length=HEAD["max_length"], return_tensors="pt")


def sentence_vectors(inputs):
    found = ENCODER(**inputs)
    pooled = getattr(found, "pooler_output", None)
    if HEAD["token"] == "last":
        last = inputs["attention_mask"].sum(1) - 1
        return found.last_hidden_state[torch.arange(len(last)), last]
    return found.last_hidden_state[:, 0] if pooled is None else pooled


def mean_vectors(inputs):
    mask = inputs["attention_mask"].unsqueeze(-1)
    return (ENCODER(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)


@torch.inference_mode()
def outputs(*inputs):
    if HEAD["kind"] == "siamese":
        u, v = map(mean_vectors, inputs)
        cosine = torch.nn.functional.cosine_similarity(u, v).unsqueeze(-1)
        features = torch.cat([u, v, (u - v).abs(), u * v, cosine], dim=-1)
    else:
        features = sentence_vectors(*inputs)
    return torch.nn.functional.linear(features, LINEAR["weight"], LINEAR["bias"])


def answer(outputs, labels):
    return ANSWER


def predict(*texts):
    encoded = map(encode, texts) if HEAD["kind"] == "siamese" else [encode(*texts)]
    return answer(outputs(*encoded)[0], HEAD["labels"])


if __name__ == "__main__":
    if len(sys.argv) != (3 if HEAD["pair"] else 2):
        sys.exit(__doc__)
    print(json.dumps(predict(*sys.argv[1:])))
'''
"""Where one vector is read, or two. ANSWER stands for an expression over `outputs` and `labels`."""

FILL = '''"""The likeliest words in place of [MASK], with the model in this folder: python predict.py TEXT."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn.functional import gelu, layer_norm, linear
from transformers import AutoModel, AutoTokenizer

FOLDER = Path(__file__).resolve().parent
HEAD = load_file(str(FOLDER / "head.safetensors"))
TOKENIZER = AutoTokenizer.from_pretrained(str(FOLDER))
ENCODER = AutoModel.from_pretrained(str(FOLDER)).eval()


@torch.inference_mode()
def outputs(inputs):
    hidden = gelu(linear(ENCODER(**inputs).last_hidden_state, HEAD["transform.weight"], HEAD["transform.bias"]))
    normed = layer_norm(hidden, hidden.shape[-1:], HEAD["norm.weight"], HEAD["norm.bias"])
    return linear(normed, ENCODER.get_input_embeddings().weight, HEAD["bias"])


def predict(text, count=5):
    inputs = TOKENIZER(text.replace("[MASK]", TOKENIZER.mask_token), truncation=True, return_tensors="pt")
    hidden = inputs["input_ids"][0] == TOKENIZER.mask_token_id
    shares, words = outputs(inputs)[0][hidden].softmax(-1).topk(count)
    return [dict(zip(TOKENIZER.convert_ids_to_tokens(w), s.tolist())) for w, s in zip(words, shares)]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(json.dumps(predict(sys.argv[1])))
'''
"""Where every token is read, by a head over the vocabulary."""

LABEL = '''"""The label of each word of a text, with the model in this folder: python predict.py TEXT."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

FOLDER = Path(__file__).resolve().parent
HEAD = json.loads((FOLDER / "head.json").read_text(encoding="utf-8"))
LINEAR = load_file(str(FOLDER / "head.safetensors"))
TOKENIZER = AutoTokenizer.from_pretrained(str(FOLDER))
ENCODER = AutoModel.from_pretrained(str(FOLDER)).eval()


@torch.inference_mode()
def outputs(inputs):
    return torch.nn.functional.linear(ENCODER(**inputs).last_hidden_state, LINEAR["weight"], LINEAR["bias"])


def answer(outputs, labels):
    return ANSWER


def predict(text):
    """A pair of word and label for each word; of words that the model does not read, the label is None."""
    words = text.split()
    inputs = TOKENIZER(" ".join(words), truncation=True, max_length=HEAD["max_length"], return_tensors="pt")
    labels = answer(outputs(inputs)[0], HEAD["labels"])
    starts = [sum(len(word) + 1 for word in words[:place]) for place in range(len(words))]
    tokens = map(inputs.char_to_token, starts)
    return [[word, None if token is None else labels[token]] for word, token in zip(words, tokens)]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(json.dumps(predict(sys.argv[1])))
'''
"""Where every token is read, by a head over labels. ANSWER as above."""
