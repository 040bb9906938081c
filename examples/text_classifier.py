"""Text: which part of Python's standard library a sentence of its documentation is from.

python examples/text_classifier.py

Nothing is downloaded: the sentences are the docstrings of the Python that runs this. Both networks average
vectors of words; the teacher has 4000 of 64 numbers, the student 400 of 8, each for ten words.
docs/tokens.md has what came of it.
"""

import ast
import re
import sysconfig
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmkd import CMKDLoss, KDLoss
from cmkd.functional import spearman

PARTS = (
    "asyncio", "difflib", "email", "http", "importlib", "ipaddress", "logging", "_pydecimal", "statistics",
    "turtle", "unittest", "xml",
)  # fmt: skip
LENGTH, WORDS = 32, 4000


def docstrings(part: str) -> list[str]:
    """Return the docstrings of a module or a package."""
    place = Path(sysconfig.get_paths()["stdlib"]) / part
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    found = [ast.get_docstring(node) for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)]
    return sorted({text for text in found if text})


def sentences(text: str) -> list[list[str]]:
    """Cut a docstring into sentences of five words or more, in lower case."""
    parts = re.split(r"\n\s*\n|(?<=[.!?])\s+", text)
    words = [re.findall(r"[a-z]+|\d|[^\sa-z\d]", part.lower()) for part in parts]
    return [part for part in words if len(part) >= 5]


def load(seed: int = 0) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return words (N, 32), 0 for none, and parts (N,): of three docstrings in four, and of the fourth."""
    generator = torch.Generator().manual_seed(seed)
    rows: tuple[list, list] = ([], [])
    for label, part in enumerate(PARTS):
        for text in docstrings(part):
            # A docstring is on one side as a whole: its sentences give each other away.
            side = int(torch.rand((), generator=generator) < 0.25)
            rows[side].extend((words, label) for words in sentences(text))
    counts = Counter(word for words, _ in rows[0] for word in words)
    number = {word: place + 2 for place, (word, _) in enumerate(counts.most_common(WORDS - 2))}

    def tensors(side: list) -> tuple[Tensor, Tensor]:
        texts = [[number.get(word, 1) for word in words[:LENGTH]] for words, _ in side]
        padded = torch.tensor([text + [0] * (LENGTH - len(text)) for text in texts])
        return padded, torch.tensor([label for _, label in side])

    return tensors(rows[0]), tensors(rows[1])


class Reader(nn.Module):
    """The mean of a text's word vectors, and a linear layer."""

    def __init__(self, vectors: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.vectors = nn.Embedding(vectors, width)
        self.classes = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, len(PARTS)))

    def forward(self, text: Tensor) -> Tensor:
        """Return logits (N, 12) for words (N, 32); with fewer vectors than words, several share one."""
        there = (text != 0).unsqueeze(-1)
        vectors = self.vectors(text % self.vectors.num_embeddings)
        return self.classes((vectors * there).sum(1) / there.sum(1))


def train(
    network: nn.Module,
    data: tuple[Tensor, Tensor],
    epochs: int,
    taught: Tensor | None = None,
    distill: CMKDLoss | KDLoss | None = None,
) -> None:
    """Train by Adam, on the labels and, if they are given, by the teacher's logits."""
    texts, labels = data
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(texts)).split(128):
            logits = network.train()(texts[batch])
            loss = F.cross_entropy(logits, labels[batch])
            if taught is not None and distill is not None:
                loss = distill.task_weight * loss + distill(logits, taught[batch], labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def measure(network: nn.Module, teacher: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return the share of sentences put in their part, in percent, and Spearman's rho with the teacher."""
    logits, taught = network.eval()(data[0]), teacher.eval()(data[0])
    return 100 * (logits.argmax(1) == data[1]).float().mean().item(), spearman(logits, taught).mean().item()


def main(seeds: int = 3, epochs: int = 20) -> dict[str, Tensor]:
    """Train one teacher, and students by three methods from the same starts; return (seeds, 2) for each."""
    seen, unseen = load()
    torch.manual_seed(0)
    teacher = Reader(WORDS, 64, dropout=0.5)
    train(teacher, seen, epochs)
    with torch.no_grad():
        taught = teacher.eval()(seen[0])  # once: the texts are the same in every epoch
    methods = {"labels alone": None, "KD": KDLoss(), "CMKD": CMKDLoss()}
    result = {"teacher": torch.tensor([measure(teacher, teacher, unseen)])}
    for name, distill in methods.items():
        found = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            student = Reader(400, 8)
            train(student, seen, epochs, taught, distill)
            found.append(measure(student, teacher, unseen))
        result[name] = torch.tensor(found)
    print(
        f"{len(seen[0])} sentences to learn from, {len(unseen[0])} others, {len(PARTS)} parts, {seeds} seeds"
    )
    for name, each in result.items():
        spread = each.std(0) if len(each) > 1 else torch.zeros(2)
        right, rho = (f"{mean:.3g} ± {std:.1g}" for mean, std in zip(each.mean(0), spread, strict=True))
        print(f"{name:13} accuracy {right} %, rank correlation with the teacher {rho}")
    return result


if __name__ == "__main__":
    main()
