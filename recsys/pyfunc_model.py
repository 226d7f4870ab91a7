"""What `mlflow.pyfunc` runs when it loads a logged bundle: code next to data, no pickle.

MLflow copies this file into the model and executes it at loading ("models from code").
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class BundleModel(PythonModel):
    """The recommender behind MLflow's common interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle that was logged with the model."""
        # Late, so that logging a model, which executes this file too, loads no recommender.
        from recsys.recommender import Recommender

        self._recommender = Recommender.load(context.artifacts["bundle"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Recommend the next items of each history.

        Args:
            context: MLflow's context, not used.
            model_input: column `history`, lists of original item ids, oldest first.
            params: `k`, how many items (default 10).

        Returns:
            One row a history, with columns `items` (list of original ids) and `scores` (list of floats).
        """
        k = int((params or {}).get("k", 10))
        # A cell may be a list or an array; ids must be plain integers or strings.
        histories = [np.asarray(list(cell)).tolist() for cell in model_input["history"]]
        answers = [self._recommender.recommend(history, k=k).items for history in histories]
        columns = {
            "items": [[item.id for item in answer] for answer in answers],
            "scores": [[item.score for item in answer] for answer in answers],
        }
        return pd.DataFrame(columns, index=model_input.index)


set_model(BundleModel())
