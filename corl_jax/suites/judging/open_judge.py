"""Opens the alternative judge of GenEval: OWLv2 in PyTorch, colours by our CLIP in JAX."""

from __future__ import annotations

from typing import Any

from corl_jax.core.provenance import versions_of
from corl_jax.core.sharding import Sharder
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.clip.weights import CLIP
from corl_jax.suites.generation.geneval_prompts import OBJECT_NAMES
from corl_jax.suites.judging.clip_colours import ClipColours
from corl_jax.suites.judging.detector_judge import OWLV2_THRESHOLDS, DetectorJudge
from corl_jax.suites.judging.detectors import Owlv2Detector

NOTICE = (
    "judged by OWLv2 on boxes, not by GenEval's own Mask2Former on masks: compare these figures "
    "with each other, not with those of papers"
)
"""What has to stand beside every figure of this judge."""


def open_owlv2_judge(
    detector: str, clip: str, sharder: Sharder, device: str = "cpu"
) -> tuple[DetectorJudge, dict[str, Any]]:
    """The judge of two folders.

    Args:
      detector: folder of an OWLv2.
      clip: folder or hub id of a CLIP, or ``tiny`` for random weights.
      sharder: the mesh that the CLIP is on.
      device: of PyTorch, for the detector.

    Returns:
      the judge, and JSON values that say what it is.

    Raises:
      UserError: the extra ``judges`` is not installed, or a folder cannot be read.
    """
    # The detector first: it fails at once where a library is missing.
    owlv2 = Owlv2Detector.load(detector, device)
    colours = ClipColours(load_reward_model(CLIP, clip, sharder), sharder)
    judge = DetectorJudge(owlv2, colours, OWLV2_THRESHOLDS, OBJECT_NAMES)
    libraries = versions_of("torch", "transformers", "scipy")
    return judge, {"detector": detector, "clip": clip, "notice": NOTICE} | libraries
