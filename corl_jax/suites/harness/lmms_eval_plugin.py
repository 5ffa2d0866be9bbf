"""What lmms-eval finds under the entry point ``lmms_eval.models`` of this package."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """The model ``corl_jax``. Only its path, so that lmms-eval starts without JAX.

    It has the simple interface of lmms-eval: pictures, and a text behind them, as the policies were
    trained on. The chat interface knows no log-probs, and puts the same questions the same way
    where a task does not mix pictures into its text.
    """
    return ModelManifest(
        model_id="corl_jax",
        simple_class_path="corl_jax.suites.harness.lmms_eval_model.CorlJax",
    )
