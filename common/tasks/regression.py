"""One number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite, log1p, sqrt
from typing import TYPE_CHECKING, Any

from common.statistics import LARGEST, MOMENTS, ROUNDING, TaskStatistics, mean_of
from common.targets import OWN_UNITS, TargetSums, TargetUnits, sums_of
from common.tasks.definition import TaskDefinition
from common.tasks.kind import Float64, Label, Labels, LinearTargets, Reduction, TaskKind
from common.tasks.labels import read_score
from common.tasks.metric_sums import AbsoluteErrors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

SCORE_CLASSES = 10
"""Examples fall into so many classes of equal size, by their scores."""
_CONSTANT = 1e-13
"""A standard deviation this small against the mean is rounding; the bound of scipy.stats.pearsonr."""


class Regression(TaskKind):
    """The output is the number, in the federation's units while training and in the user's everywhere else."""

    name = "regression"
    metrics = ("spearman_mean", "pearson", "rmse", "mae")
    lower_is_better = frozenset({"rmse", "mae"})
    sums = (AbsoluteErrors(),)
    rank_metric = "spearman_mean"
    has_units = True
    has_linear_problems = True
    # From small random weights, the many u, v and |u - v| first grow to meet the mean score and bury the similarity
    # that the encoder already knows: on 1,000 rows of STS-B that costs 0.3 of Spearman's rho. STS-B's scores range from
    # 0 to 5; in units of the federation that is two and a half, whose middle is the mean score.
    cosine_start = 2.5
    problem_type = "regression"
    answer = '{"score": outputs.item()}'
    gives = "the number itself, in the units of the training data"
    no_label = 0.0

    def label_parser(self, task: TaskDefinition) -> Callable[[object], Label]:
        """A number up to 1e30 in decimal digits."""
        return read_score

    def answers(self, task: TaskDefinition, outputs: Float64) -> Mapping[str, Sequence[object]]:
        """The number."""
        return {"score": outputs[:, 0].tolist()}

    def targets(self, task: TaskDefinition, labels: Sequence[Any] | NDArray[Any]) -> Labels:
        """Scores, float64 (examples,)."""
        import numpy as np

        return np.asarray(labels, dtype=np.float64)

    def linear_targets(self, task: TaskDefinition, targets: Labels, units: TargetUnits) -> LinearTargets:
        """The numbers in the head's units."""
        import numpy as np

        wanted = (targets.astype(np.float64) - units.mean) / units.scale
        return wanted[:, np.newaxis], np.ones(len(targets))

    def target_sums(self, task: TaskDefinition, targets: Labels) -> TargetSums:
        """Mean and squared deviations."""
        import numpy as np

        return sums_of(targets.astype(np.float64))

    def sums_fit(self, task: TaskDefinition, sums: TargetSums, rows: int) -> bool:
        """See `TargetSums.fits`."""
        return sums.fits(rows or 1) and not sums.counts

    def drawn(self, scores: Float64) -> Labels:
        """The scores themselves."""
        return scores[:, 0]

    def classes(self, targets: Labels) -> NDArray[np.int64]:
        """Classes of equal size, by rank."""
        import numpy as np

        ranks = np.empty(len(targets), dtype=np.int64)
        ranks[np.argsort(targets, kind="stable")] = np.arange(len(targets))
        return ranks * SCORE_CLASSES // len(targets)

    def balance(self, task: TaskDefinition, labels: Sequence[Label]) -> str:
        """Range, mean and deviation."""
        import numpy as np

        scores = np.array(labels, dtype=np.float64)
        spread = f"mean {scores.mean():.4g}, deviation {scores.std():.4g}"
        return f"scores: from {scores.min():.4g} to {scores.max():.4g}, {spread}"

    def loss(
        self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean", units: TargetUnits = OWN_UNITS
    ) -> Tensor:
        """Squared error in the head's units; targets are float64 (rows,)."""
        from torch.nn import functional

        wanted = ((targets.double() - units.mean) / units.scale).float()
        return functional.mse_loss(outputs.squeeze(-1), wanted, reduction=reduction)

    def averaged(self, outputs: Tensor, others: Tensor, weight: float) -> Tensor:
        """Of the numbers."""
        return others.lerp(outputs, weight)

    def log_likelihood(self, loss: float, rows: int) -> float:
        """Of normal errors whose variance is not known, in the head's units.

        It has the conjugate prior that is worth one row of variance 1 (Gelman et al., Bayesian Data Analysis, 3.2).
        """
        return -(rows + 1) / 2 * log1p(rows * loss)

    def measure(self, task: TaskDefinition, outputs: Float64, targets: Float64, loss_sum: float) -> TaskStatistics:
        """Moments of predictions and targets, and the correlation of their ranks."""
        from common.tasks.formulas import moments, spearman

        p, y, count = outputs[:, 0], targets, len(targets)
        means = mean_of("spearman_mean", spearman(p, y), count)
        sums = self.measure_sums(task, outputs, targets)
        return TaskStatistics(count, loss_sum, moments=moments(p, y), means=means, sums=sums)

    def rank_scores(self, outputs: Float64, targets: Float64, counts: NDArray[np.int64]) -> Float64:
        """The correlation of ranks."""
        from common.tasks.formulas import drawn_spearman

        return drawn_spearman(outputs[:, 0], targets, counts)

    def fits(self, task: TaskDefinition, statistics: TaskStatistics) -> bool:
        """Moments of some predictions and targets, to rounding; ranks need two examples."""
        if len(statistics.moments) != MOMENTS or statistics.labels or statistics.right:
            return False
        if not all(isfinite(value) and abs(value) <= LARGEST for value in statistics.moments):
            return False
        n, (p, y, pp, yy, py, error) = statistics.examples, statistics.moments
        if min(pp, yy, error) < 0 or abs(py) > sqrt(pp) * sqrt(yy) * (1 + ROUNDING):
            return False
        if n == 1 and (max(pp, yy) > 0 or statistics.means):
            return False
        expected = pp - 2 * py + yy + n * (p - y) ** 2
        rounding = 1e-6 * (pp + yy + n * (p - y) ** 2) + n * (ROUNDING * (abs(p) + abs(y))) ** 2
        return abs(error - expected) <= rounding and statistics.has_at_most("spearman_mean", -1.0, 1.0)

    def summary(self, task: TaskDefinition, total: TaskStatistics) -> Mapping[str, float | None]:
        """Pearson and the root of the mean squared error."""
        n = total.examples
        p, y, pp, yy, py, error = total.moments
        lengths = sqrt(pp), sqrt(yy)
        defined = all(length > _CONSTANT * abs(mean) * sqrt(n) for length, mean in zip(lengths, (p, y), strict=True))
        return {
            "pearson": min(max(py / lengths[0] / lengths[1], -1.0), 1.0) if defined else None,
            "rmse": sqrt(error / n) if n else None,
        }
