"""Published data sets by name: where they are, and which columns they have."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published data set.

    Attributes:
      hub: its id on the hub; "" where it has none that is read here.
      columns: field to column; {} tries the usual names.
      optional: field to a column that only some versions of the set have.
    """

    hub: str
    columns: Mapping[str, str]
    optional: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def columns_in(self, available: Collection[str]) -> dict[str, str]:
        """Field to column, for a table with the columns ``available``."""
        optional = {field: name for field, name in self.optional.items() if name in available}
        return {**self.columns, **optional}


X2X_COLUMNS = {
    "prompt": "prompt",
    "image": "real_image",
    "question": "qa_problem",
    "solution": "qa_solution",
    "qa_type": "qa_type",
}
X2X_OPTIONAL = {
    "class_question": "cls_problem",
    "class_answer": "cls_solution",
    "box_question": "od_problem",
    "box_answer": "od_solution",
}
R1V_COLUMNS = {"image": "image", "question": "problem", "solution": "solution"}

PRESETS: Mapping[str, Preset] = {
    # CoRL's four sets. The columns of the first are known from ULM-R1's code.
    "x2x_rft_22k": Preset("mm-vl/x2x_rft_22k", X2X_COLUMNS, X2X_OPTIONAL),
    "x2x_rft_16k": Preset("mm-vl/x2x_rft_16k", X2X_COLUMNS, X2X_OPTIONAL),
    "mcot_r1_mcq_66k": Preset("mm-vl/mcot_r1_mcq_66k", {}),
    "mcot_r1_vqa_66k": Preset("mm-vl/mcot_r1_vqa_66k", {}),
    # R1-V's training sets, which OThink-MR1 uses: counts, and geometry with one answer.
    "clevr_counting": Preset(
        "leonardPKU/clevr_cogen_a_train", R1V_COLUMNS | {"qa_type": "=OE", "kind": "=count"}
    ),
    "geoqa": Preset("leonardPKU/GEOQA_R1V_Train_8K", R1V_COLUMNS | {"kind": "=geometry"}),
    "geometry3k": Preset(
        "hiyouga/geometry3k",
        {"image": "images.0", "question": "problem", "answer": "answer", "kind": "=geometry"},
    ),
    # Prompts alone: there is nothing to ask.
    "t2i_r1": Preset("", {"prompt": "prompt", "kind": "task_type"}),
    "geneval": Preset("", {"prompt": "prompt", "kind": "tag"}),
    "dpg": Preset("", {"prompt": "prompt"}),
    # Questions alone: there is nothing to draw.
    "pope": Preset(
        "",
        {
            "id": "question_id",
            "image": "image",
            "question": "text",
            "answer": "label",
            "qa_type": "=YN",
        },
    ),
}
"""Name to data set. ``NAME:PATH`` reads files at ``PATH`` with its columns."""
