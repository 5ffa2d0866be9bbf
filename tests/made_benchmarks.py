"""Files of benchmarks in the forms of their owners, with made questions and pictures."""

from __future__ import annotations

import base64
import csv
import io
import json
import pathlib

import numpy as np
from PIL import Image


def make_picture(number: int, size: int = 16) -> Image.Image:
    """A picture that no other number has."""
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    make_picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def png_base64(number: int) -> str:
    return base64.b64encode(png(number)).decode()


def save_pictures(folder: pathlib.Path, names) -> None:
    """A picture under each name, in the folder."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_picture(number).save(path)


def write_lines(path: pathlib.Path, rows) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_tsv(path: pathlib.Path, rows) -> pathlib.Path:
    """A table of VLMEvalKit."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: pathlib.Path, rows) -> pathlib.Path:
    """Rows as the hub has them; pictures are objects with bytes and path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def hub_picture(number: int):
    return {"bytes": png(number), "path": f"{number}.png"}


def pope(folder):
    save_pictures(folder, ["a.jpg", "b.jpg"])
    rows = [
        {
            "question_id": 1,
            "image": "a.jpg",
            "text": "Is there a cat in the image?",
            "label": "yes",
        },
        {"question_id": 2, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "no"},
        {
            "question_id": 3,
            "image": "b.jpg",
            "text": "Is there a car in the image?",
            "label": "yes",
        },
    ]
    return write_lines(folder / "coco_pope_random.json", rows)


def mmmu(folder):
    rows = [
        {
            "id": "validation_Art_Theory_1",
            "question": "What is in <image 1> and <image 2>?",
            "options": "['a cup', \"an 'old' hat\"]",
            "answer": "B",
            "question_type": "multiple-choice",
            "image_1": hub_picture(1),
            "image_2": hub_picture(2),
        },
        {
            "id": "validation_Math_7",
            "question": "How many in <image 1>?",
            "options": "[]",
            "answer": "12",
            "question_type": "open",
            "image_1": hub_picture(3),
            "image_2": None,
        },
    ]
    return write_parquet(folder / "validation-00000-of-00001.parquet", rows)


def mmmu_pro(folder):
    rows = [
        {
            "id": "test_Art_3",
            "question": "Which <image 1>?",
            "options": "['one', 'two', 'three', 'four', 'five', 'six']",
            "answer": "F",
            "subject": "Art",
            "image_1": hub_picture(1),
        }
    ]
    return write_parquet(folder / "test.parquet", rows)


def mmmu_pro_vision(folder):
    rows = [
        {
            "id": "test_Art_3",
            "image": hub_picture(1),
            "options": "['one', 'two']",
            "answer": "A",
            "subject": "Art",
        }
    ]
    return write_parquet(folder / "test.parquet", rows)


def mmstar(folder):
    rows = [
        {
            "index": 0,
            "question": "Where is it?\nOptions: A: on the book., B: beneath a cat., C: far, D: near",
            "image": png(1),
            "answer": "B",
            "category": "coarse perception",
            "l2_category": "image scene",
        }
    ]
    return write_parquet(folder / "val.parquet", rows)


def mmbench(folder):
    row = {"question": "Which?", "hint": "Look up.", "category": "attribute", "split": "dev"}
    rows = [
        {**row, "index": 7, "A": "red", "B": "blue", "answer": "A", "image": png_base64(1)},
        {**row, "index": 1000007, "A": "blue", "B": "red", "answer": "B", "image": "7"},
        {**row, "index": 8, "A": "big", "B": "small", "answer": "B", "image": png_base64(1)},
    ]
    return write_tsv(folder / "MMBench_DEV_EN.tsv", rows)


def mme(folder):
    for kind, names in {"count": ["one", "two"], "OCR": ["three"]}.items():
        for number, name in enumerate(names):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            make_picture(number).save(folder / kind / f"{name}.jpg")
            text = (
                f"Is there one {name}? Please answer yes or no.\tYes\n"
                f"Is there no {name}? Please answer yes or no.\tNo\n"
            )
            (folder / kind / f"{name}.txt").write_text(text)
    return folder


def mathvista(folder):
    save_pictures(folder, ["images/1.jpg", "images/2.jpg"])
    metadata = {"task": "geometry problem solving", "skills": ["geometry reasoning"]}
    content = {
        "1": {
            "pid": "1",
            "question": "How long is it?",
            "image": "images/1.jpg",
            "choices": None,
            "unit": "cm",
            "precision": 1.0,
            "answer": "1.2",
            "question_type": "free_form",
            "answer_type": "float",
            "metadata": metadata,
        },
        "2": {
            "pid": "2",
            "question": "Which?",
            "image": "images/2.jpg",
            "choices": ["3/11", "8/11"],
            "unit": None,
            "precision": None,
            "answer": "8/11",
            "question_type": "multi_choice",
            "answer_type": "text",
            "metadata": metadata,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "testmini.json"
    path.write_text(json.dumps(content, indent=4))
    return path


def mathverse(folder):
    save_pictures(folder, ["images_version_1-4/image_1.png"])
    rows = [
        {
            "sample_index": str(number),
            "problem_index": "1",
            "problem_version": version,
            "question": "",
            "image": "images_version_1-4/image_1.png",
            "answer": "14",
            "question_type": "free-form",
            "metadata": {"subject": "Solid Geometry"},
            "query_wo": "Please directly answer the question.\nQuestion: Find L.",
            "query_cot": "Please first conduct reasoning.",
            "question_for_eval": "Find L.",
        }
        for number, version in enumerate(["Text Dominant", "Vision Only"], 1)
    ]
    path = folder / "testmini.json"
    path.write_text(json.dumps(rows))
    return path


def mathvision(folder):
    save_pictures(folder, ["images/4.jpg", "images/6.jpg"])
    rows = [
        {"id": "4", "question": "How many?\n<image1>", "options": [], "answer": "6",
         "image": "images/4.jpg", "level": 1, "subject": "counting"},
        {"id": "6", "question": "Which?\n<image1>", "options": ["A", "B", "C"], "answer": "C",
         "image": "images/6.jpg", "level": 3, "subject": "logic"},
    ]  # fmt: skip
    return write_lines(folder / "testmini.jsonl", rows)


def logicvista(folder):
    save_pictures(folder, ["images/v1_0.png", "images/v1_1.png"])
    entry = {"reasoning": "", "capability": ["diagram"], "imagesource": "x"}
    content = {
        "v1_0": {"imagename": "v1_0.png", "question": "Which?", "answer": "C",
                 "skill": ["inductive"], **entry},
        "v1_1": {"imagename": "v1_1.png", "question": "Which two?", "answer": "A, C",
                 "skill": ["inductive", "spatial"], **entry},
    }  # fmt: skip
    path = folder / "dataset.json"
    path.write_text(json.dumps(content, indent=4))
    return path


def wemath(folder):
    keys = ["2steps_1", "2steps_2", "2steps_multi"]
    save_pictures(folder, [f"image/{key}.png" for key in keys])
    rows = [
        {
            "ID": "5",
            "split": "testmini",
            "key": key,
            "knowledge concept": "Polygons",
            "question": "How long?",
            "option": "A. $1$; B. $2$; C. 3; D. No correct answer",
            "answer": "B",
            "image_path": f"image/{key}.png",
        }
        for key in keys
    ]
    path = folder / "testmini.json"
    path.write_text(json.dumps(rows))
    return path


def mmvet(folder):
    save_pictures(folder, ["images/v1_0.png"])
    content = {
        "v1_0": {
            "imagename": "v1_0.png",
            "question": "What is x in the equation?",
            "answer": "-1<AND>-5",
            "imagesource": "y",
            "capability": ["ocr", "math"],
        }
    }
    path = folder / "mm-vet.json"
    path.write_text(json.dumps(content))
    return path


def table(folder):
    rows = [
        {"index": "a", "question": "Yes?", "answer": "Yes", "image": png_base64(1)},
        {"index": "b", "question": "Which?", "A": "x", "B": "y", "answer": "B",
         "image": str([png_base64(2), png_base64(3)])},
    ]  # fmt: skip
    return write_tsv(folder / "own.tsv", rows)


MAKERS = {
    maker.__name__: maker
    for maker in (
        pope, mmmu, mmmu_pro, mmmu_pro_vision, mmstar, mmbench, mme, mathvista, mathverse,
        mathvision, logicvista, wemath, mmvet, table,
    )
}  # fmt: skip
