"""A probe of a whole sample from its tokens, that learns which tokens to look at.

Mean pooling drowns what one token knows among thousands. Here each head scores the tokens with a learnt query, and the
class is read off the weighted means. At the start all queries are zero: the probe begins as the mean-pooled linear one.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from probes.errors import ProbeError
from probes.estimators.saved import Saved


class AttentionProbe(ClassifierMixin, Saved):
    """Attention-pooled logistic probe of ``X`` [sample, token, feature].

    Parameters:
        heads: how many weighted means are read.
        C: inverse strength of the L2 penalty on all weights.
        max_iter: steps of L-BFGS; a fit that meets it warns, unless ``early`` says that this is meant.
        early: stopping at ``max_iter`` is regularisation.
        seed: of the small random start that tells heads apart.

    Once fitted: ``query_`` [head, feature], ``coef_`` [class, head, feature] and ``intercept_`` [class], for features
    scaled by ``mean_`` and ``scale_`` [feature]; ``classes_`` [class].
    """

    tokens = True

    def __init__(self, heads: Any = 1, *, C: Any = 0.1, max_iter: Any = 100, early: Any = True, seed: Any = 0) -> None:
        self.heads = heads
        self.C = C
        self.max_iter = max_iter
        self.early = early
        self.seed = seed

    def fit(self, X: Any, y: Any) -> AttentionProbe:
        """Fit to tokens and the classes of their samples ``y`` [sample].

        Raises:
            ProbeError: X is not [sample, token, feature], lengths differ, or there is one class.
            ValueError: no head, or C that is not positive.
        """
        if int(self.heads) < 1 or not self.C > 0:
            raise ValueError(f"heads={self.heads}, C={self.C}: need one head or more, and C above 0")
        x = self._checked(X)
        target = np.asarray(y)
        check_classification_targets(target)
        self.classes_, code = np.unique(target, return_inverse=True)
        if len(target) != len(x) or len(self.classes_) < 2:
            raise ProbeError(
                f"{len(x)} samples, {len(target)} labels, {len(self.classes_)} classes: need one a sample."
            )
        self.n_features_in_ = x.shape[2]
        self.mean_ = x.mean(axis=(0, 1))
        spread = x.std(axis=(0, 1))
        self.scale_ = np.where(spread > 1e-12, spread, 1.0)
        scaled = torch.from_numpy((x - self.mean_) / self.scale_)
        labels = torch.from_numpy(code.astype(np.int64))
        generator = torch.Generator().manual_seed(int(self.seed))
        shape = (int(self.heads), x.shape[2])
        query = 1e-2 * torch.randn(shape, generator=generator, dtype=torch.float64)
        coef = torch.zeros(len(self.classes_), *shape, dtype=torch.float64)
        intercept = torch.zeros(len(self.classes_), dtype=torch.float64)
        parameters = [p.requires_grad_() for p in (query, coef, intercept)]
        solver = torch.optim.LBFGS(parameters, max_iter=int(self.max_iter), line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            solver.zero_grad()
            loss = torch.nn.functional.cross_entropy(_logits(scaled, *parameters), labels, reduction="sum")
            loss = (loss + ((query**2).sum() + (coef**2).sum()) / (2 * self.C)) / len(labels)
            loss.backward()
            return loss

        with torch.enable_grad():
            solver.step(closure)
        self.n_iter_ = int(solver.state[query]["n_iter"])
        met = self.n_iter_ >= self.max_iter or solver.state[query]["func_evals"] >= self.max_iter * 5 // 4
        if met and not self.early:
            warnings.warn(
                f"The fit met max_iter={self.max_iter} before it had converged.", ConvergenceWarning, stacklevel=2
            )
        self.query_, self.coef_, self.intercept_ = (p.detach().numpy().copy() for p in parameters)
        return self

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Log odds [sample], or one score a class [sample, class]."""
        out = _logits(*self._tensors(X)).numpy()
        return np.asarray(out[:, 1] - out[:, 0] if len(self.classes_) == 2 else out)

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Class probabilities [sample, class]."""
        return np.asarray(_logits(*self._tensors(X)).softmax(dim=1).numpy())

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class [sample]."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags

    def attention(self, X: Any) -> NDArray[Any]:
        """Where each head looks: weights [sample, head, token] that sum to 1 over tokens."""
        x, query, _, _ = self._tensors(X)
        return np.asarray(_attention(x, query).numpy())

    def _tensors(self, X: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        check_is_fitted(self)
        x = self._checked(X)
        if x.shape[2] != self.n_features_in_:
            raise ProbeError(f"The probe was fitted to {self.n_features_in_} features; these have {x.shape[2]}.")
        scaled = torch.from_numpy((x - self.mean_) / self.scale_)
        query, coef, intercept = (torch.from_numpy(np.asarray(p)) for p in (self.query_, self.coef_, self.intercept_))
        return scaled, query, coef, intercept

    @staticmethod
    def _checked(X: Any) -> NDArray[np.float64]:
        given = X.detach().cpu().double() if isinstance(X, Tensor) else X  # NumPy knows no bfloat16
        x = np.asarray(given, dtype=np.float64)
        if x.ndim != 3 or not x.size or not np.isfinite(x).all():
            raise ProbeError(f"Tokens must be finite numbers [sample, token, feature]; got shape {x.shape}.")
        return x


def _attention(x: Tensor, query: Tensor) -> Tensor:
    return torch.einsum("ntd,hd->nht", x, query / x.shape[2] ** 0.5).softmax(dim=2)


def _logits(x: Tensor, query: Tensor, coef: Tensor, intercept: Tensor) -> Tensor:
    """Scores [sample, class]."""
    pooled = torch.einsum("nht,ntd->nhd", _attention(x, query), x)
    return torch.einsum("nhd,chd->nc", pooled, coef) + intercept
