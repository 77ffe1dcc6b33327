"""Softmax regression in plain Python on Fisher's Iris measurements: small, real, and worth a sweep.

The subject of the examples, not a part of the library, of which it knows nothing. ``cross_validate`` is what
they sweep over: three hyperparameters in, one accuracy out.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from operator import mul
from pathlib import Path
from statistics import fmean, pstdev

Row = list[float]
DATA = Path(__file__).with_name("iris.csv")


def load(path: Path = DATA) -> tuple[list[Row], list[int]]:
    """Return the measurements, four to a flower, and the species of each as 0, 1 or 2."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    species = sorted({line[-1] for line in lines})
    return [[float(cell) for cell in line[:-1]] for line in lines], [species.index(line[-1]) for line in lines]


def standardise(train: list[Row], test: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return both with a leading 1 (the bias's feature) and columns scaled by what ``train`` alone knows."""
    scales = [(fmean(column), pstdev(column)) for column in zip(*train, strict=True)]

    def scaled(row: Row) -> Row:
        return [1.0, *((value - mean) / spread for value, (mean, spread) in zip(row, scales, strict=True))]

    return [scaled(row) for row in train], [scaled(row) for row in test]


class Softmax:
    """A linear classifier: a row of weights for each class, the bias first."""

    def __init__(self, features: int, classes: int) -> None:
        """Start from zero weights, so that training draws no random number."""
        self.weights: list[Row] = [[0.0] * features for _ in range(classes)]

    def scores(self, row: Row) -> Row:
        """Return one unnormalised log-probability for each class."""
        return [sum(map(mul, weights, row)) for weights in self.weights]

    def train_epoch(self, rows: list[Row], labels: list[int], lr: float, l2: float) -> float:
        """Take one step of full-batch gradient descent; return the regularised loss before it."""
        loss, errors = 0.0, []
        for row, label in zip(rows, labels, strict=True):
            scores = self.scores(row)
            top = max(scores)  # subtracted, so that exp cannot overflow
            powers = [math.exp(score - top) for score in scores]
            total = sum(powers)
            loss += math.log(total) + top - scores[label]
            errors.append([power / total - (k == label) for k, power in enumerate(powers)])
        columns = list(zip(*rows, strict=True))
        for weights, error in zip(self.weights, zip(*errors, strict=True), strict=True):
            for j, column in enumerate(columns):
                decay = l2 * weights[j] if j else 0.0  # the bias is not regularised
                loss += decay * weights[j] / 2 * len(rows)
                weights[j] -= lr * (sum(map(mul, error, column)) / len(rows) + decay)
        return loss / len(rows)

    def accuracy(self, rows: list[Row], labels: list[int]) -> float:
        """Return the share of ``rows`` whose highest score is their label's."""
        guesses = (max(enumerate(self.scores(row)), key=lambda pair: pair[1])[0] for row in rows)
        return fmean(guess == label for guess, label in zip(guesses, labels, strict=True))


def cross_validate(
    lr: float, l2: float, epochs: int, folds: int = 3, on_epoch: Callable[[int, float], bool | None] | None = None
) -> float:
    """Return the mean accuracy on held-out flowers; the same arguments give the same number.

    Args:
        lr: the learning rate.
        l2: the weight of the squared weights in the loss.
        epochs: passes over the training flowers.
        folds: parts that are held out in turn, with the species in equal shares.
        on_epoch: told the epoch (from 0) and the mean training loss after every epoch; True ends the training early.

    Raises:
        FloatingPointError: the training diverged.
    """
    rows, labels = load()
    # The flowers of a species stand together, so dealing them out in order gives every fold a third of each.
    part = [n % folds for n in range(len(rows))]
    models = []
    for fold in range(folds):
        inside = [n for n, p in enumerate(part) if p != fold]
        outside = [n for n, p in enumerate(part) if p == fold]
        train, test = standardise([rows[n] for n in inside], [rows[n] for n in outside])
        model = Softmax(len(train[0]), len(set(labels)))
        models.append((model, train, [labels[n] for n in inside], test, [labels[n] for n in outside]))

    # Fold by fold within an epoch, so that on_epoch sees one loss for the configuration, not one for each fold.
    for epoch in range(epochs):
        loss = fmean(model.train_epoch(train, known, lr, l2) for model, train, known, _, _ in models)
        if not math.isfinite(loss):
            raise FloatingPointError(f"training diverged in epoch {epoch} (lr={lr:g}, l2={l2:g})")
        if on_epoch is not None and on_epoch(epoch, loss):
            break
    return fmean(model.accuracy(test, held_out) for model, _, _, test, held_out in models)
