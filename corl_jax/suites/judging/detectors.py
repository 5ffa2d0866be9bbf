"""What finds objects in pictures and names their colours, as the rules of GenEval need them.

``Detector`` and ``ColourReader`` are small protocols. ``Owlv2Detector`` is the open-vocabulary
detector OWLv2 of transformers, which needs PyTorch: it is imported here alone, when a detector is
loaded, and never by what trains.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.paths import user_path
from corl_jax.core.errors import UserError, describe_error
from corl_jax.suites.judging.geneval_detections import Detection

JUDGE_LIBRARIES = ("torch", "scipy")
"""What the extra ``judges`` installs."""
MIN_SCORE = 0.05
"""Score below which no box leaves the detector; no threshold is lower."""
QUERY = "a photo of a {}"
"""How OWLv2 is asked for a class, as in its examples."""


class Detector(Protocol):
    """Finds objects of given classes."""

    def detect(
        self, picture: UInt8[np.ndarray, "H W 3"], classes: Sequence[str]
    ) -> list[Detection]:
        """All objects of ``classes`` in a picture, without their colours, in any order."""
        ...


class ColourReader(Protocol):
    """Names the colours of objects."""

    def colours(
        self, picture: UInt8[np.ndarray, "H W 3"], objects: Sequence[Detection]
    ) -> list[str]:
        """One of ``geneval_prompts.COLOURS`` for each object."""
        ...


@dataclasses.dataclass(frozen=True)
class Owlv2Detector:
    """OWLv2 (Minderer et al. 2023), for example ``google/owlv2-base-patch16-ensemble``.

    Attributes:
      processor: makes tensors of pictures and texts, and boxes of outputs.
      model: the network, on ``device``.
      device: of PyTorch.
    """

    processor: Any
    model: Any
    device: str

    @classmethod
    def load(cls, folder: str, device: str = "cpu") -> Owlv2Detector:
        """Opens a folder with OWLv2 as transformers writes it.

        Raises:
          UserError: a library of the extra ``judges`` is missing, or the folder has no OWLv2.
        """
        require_judge_libraries()
        path = user_path(folder, "the detector")
        check_owlv2_folder(path)

        # Only now: PyTorch takes seconds, and nobody else needs it.
        import torch
        from transformers import Owlv2ForObjectDetection, Owlv2Processor

        try:
            processor = Owlv2Processor.from_pretrained(str(path), local_files_only=True)
            loaded: Any = Owlv2ForObjectDetection.from_pretrained(
                str(path), local_files_only=True, output_loading_info=True
            )
            model = loaded[0].eval().to(torch.device(device))
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise UserError(
                f"the detector in {str(path)!r} cannot be loaded ({describe_error(error)}); get "
                "its folder again"
            ) from None

        # transformers fills what is missing with random numbers.
        missing = loaded[1]["missing_keys"]
        if missing:
            raise UserError(
                f"the detector in {str(path)!r} must have all of its weights; "
                f"{min(missing)!r} is missing. Get its folder again"
            )
        return cls(processor, model, device)

    def detect(
        self, picture: UInt8[np.ndarray, "H W 3"], classes: Sequence[str]
    ) -> list[Detection]:
        """Boxes with a score of ``MIN_SCORE`` or more; each has the class that fits it best."""
        import torch

        texts = [QUERY.format(name) for name in classes]
        inputs = self.processor(
            text=[texts],
            images=Image.fromarray(picture),
            return_tensors="pt",
            truncation=True,
        )
        with torch.inference_mode():
            outputs = self.model(**inputs.to(self.device))
        height, width = picture.shape[:2]
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs, threshold=MIN_SCORE, target_sizes=[(height, width)]
        )

        # The picture is padded to a square, so that a box may reach beyond its edge.
        limits = np.array([width, height, width, height], np.float64)
        boxes = np.clip(found["boxes"].cpu().numpy().astype(np.float64), 0, limits)
        scores, labels = found["scores"].cpu().numpy(), found["labels"].cpu().numpy()
        return [
            Detection(classes[int(label)], (box[0], box[1], box[2], box[3]), float(score))
            for box, score, label in zip(boxes.tolist(), scores, labels, strict=True)
            if box[2] > box[0] and box[3] > box[1]
        ]


def require_judge_libraries() -> None:
    """Checks that the extra ``judges`` is installed.

    Raises:
      UserError: a library is missing.
    """
    missing = [name for name in JUDGE_LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"the judge by OWLv2 needs {' and '.join(missing)}, which is not installed; "
            "run: pip install 'corl_jax[judges]'"
        )


def check_owlv2_folder(path: pathlib.Path) -> None:
    """Checks that a folder says that it has OWLv2.

    Raises:
      UserError: there is no such folder, or it has another model.
    """
    if not (path / "config.json").is_file():
        raise UserError(
            f"the detector must be a folder with OWLv2 as transformers writes it; got {str(path)!r} "
            "without a config.json. Download google/owlv2-base-patch16-ensemble (0.6 GB) into one"
        )
    config = JsonObject.read(path / "config.json")
    config.require("model_type", "owlv2")
