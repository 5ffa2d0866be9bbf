"""Records, sources, the TFDS builder, and the Grain pipeline."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from corl_jax.core.errors import UserError
from corl_jax.data.pipeline import PairWithNext, batches, held_out_records
from corl_jax.data.records import check
from corl_jax.data.shapes.examples import example
from corl_jax.data.sources import MemorySource, RecordSource
from corl_jax.data.transforms import PassThrough, StackPictures


@dataclasses.dataclass(frozen=True)
class Ids:
    def __call__(self, records, step):
        return step, [record.id for record in records]


@dataclasses.dataclass(frozen=True)
class Part:
    rows: range

    def __call__(self, records, step):
        return step, [records[i].id for i in self.rows]


@pytest.fixture(scope="module")
def source() -> MemorySource:
    return MemorySource(example("train", i) for i in range(50))


def take(source, n=12, **changes):
    """The first ``n`` batches of 8; what matters less has a default."""
    iterator = batches(source, **{"seed": 3, "batch_size": 8, "transform": Ids(), **changes})
    return [next(iterator) for _ in range(n)]


def test_order_is_a_function_of_the_seed(source):
    first = take(source)
    assert take(source, threads=6, prefetch=8) == first
    assert take(source, seed=4) != first
    assert [step for step, _ in first] == list(range(12))
    epochs = [sum((ids for _, ids in first[start : start + 6]), []) for start in (0, 6)]
    assert all(len(set(epoch)) == 48 for epoch in epochs) and epochs[0] != epochs[1]
    unmixed = take(source, shuffle=False)
    assert unmixed[0][1] == unmixed[6][1] == [source[i].id for i in range(8)]


def test_a_process_reads_its_own_rows_alone(source):
    class Counted(MemorySource):
        read: list[str] = []

        def __getitem__(self, index):
            self.read.append(source[index].id)
            return source[index]

    counted = Counted(source[i] for i in range(50))
    whole = take(source, 1)[0][1]
    assert list(take(counted, 1, transform=Part(range(4, 8)), threads=0)[0][1]) == whole[4:]
    assert set(whole[:4]).isdisjoint(counted.read[:4]) and counted.read[:4] == whole[4:]
    pictures = next(batches(source, seed=3, batch_size=8, transform=StackPictures(48)))
    half = next(
        batches(
            source, seed=3, batch_size=8, transform=StackPictures(48, lambda n: range(n // 2, n))
        )
    )
    np.testing.assert_array_equal(half, pictures[4:])


def test_resuming_gives_the_same_next_batches(source, tmp_path):
    running = batches(source, seed=3, batch_size=8, transform=Ids())
    for _ in range(7):
        next(running)
    state = running.get_state()
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(7, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(running)))
        manager.wait_until_finished()
        expected = [next(running) for _ in range(3)]
        saved = batches(source, seed=3, batch_size=8, transform=Ids())
        manager.restore(7, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(saved)))
    stated = batches(source, seed=3, batch_size=8, transform=Ids())
    stated.set_state(state)
    assert [next(saved) for _ in range(3)] == expected == [next(stated) for _ in range(3)]
    assert expected[0][0] == 7


def test_transforms(source):
    records = next(batches(source, seed=0, batch_size=4, transform=PassThrough()))
    pictures = next(batches(source, seed=0, batch_size=4, transform=StackPictures(48)))
    assert (
        isinstance(records, tuple)
        and pictures.shape == (4, 48, 48, 3)
        and pictures.dtype == np.float32
    )
    assert np.allclose(pictures[2] * 127.5 + 127.5, records[2].image, atol=1e-3)


@pytest.mark.parametrize("changes", [{"batch_size": 51}, {"batch_size": 0}])
def test_impossible_batches(source, changes):
    with pytest.raises(UserError, match="batch size|process index"):
        take(source, **changes)


def test_fixed_records(source):
    assert [record.id for record in held_out_records(source, 9)] == [
        record.id for record in held_out_records(source, 20)
    ][:9]
    assert [record.id for record in held_out_records(source, 9, seed=1)] != [
        record.id for record in held_out_records(source, 9)
    ]
    with pytest.raises(UserError, match="cannot take 51"):
        held_out_records(source, 51)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, "prompt"),
        ({"answer": ""}, "answer"),
        ({"question": None}, "question"),
        ({"image": np.zeros((4, 4, 3))}, "uint8"),
        ({"image": np.zeros((4, 4), np.uint8)}, "height, width, 3"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, "empty"),
        ({"image": b"png"}, "bytes"),
        ({"qa_type": "TF"}, "'TF'"),
        ({"qa_type": "MC", "choices": (), "answer": "A"}, "0 choices"),
        ({"qa_type": "MC", "choices": ("red", "blue"), "answer": "C"}, "'C'"),
        ({"qa_type": "MC", "choices": ("red", "blue"), "answer": "red"}, "'red'"),
        ({"qa_type": "OE", "choices": ("red", "blue")}, "open ended"),
    ],
)
def test_a_bad_record_is_named(changes, message):
    good = dataclasses.replace(example("train", 0), qa_type="OE", choices=(), answer="two")
    assert check(good) is good
    with pytest.raises(UserError, match=f"shapes-train-000000.*{message}"):
        MemorySource([dataclasses.replace(good, **changes)])


def test_ids_are_unique():
    with pytest.raises(UserError, match="twice"):
        MemorySource([example("train", 0)] * 2)


def test_the_builder_gives_back_its_examples(tmp_path):
    code = (
        "import sys; from corl_jax.data.shapes import builder; "
        f"rows = builder.source({str(tmp_path)!r}, 'test', {{'train': 20, 'test': 10}}); "
        "assert 'tensorflow' not in sys.modules; print(len(rows), rows[3].id)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "10 shapes-test-000003\n"

    from corl_jax.data.shapes import builder

    rows = builder.source(tmp_path, "train", {"train": 20, "test": 10})
    assert isinstance(rows, RecordSource) and len(rows) == 20
    for i in (0, 7, 19):
        for field in dataclasses.fields(rows[i]):
            read, made = getattr(rows[i], field.name), getattr(example("train", i), field.name)
            assert type(read) is type(made) and np.array_equal(read, made), field.name
    assert not list(tmp_path.glob("**/*incomplete*"))
    with pytest.raises(UserError, match="no split 'dev'"):
        builder.source(tmp_path, "dev")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="another data_dir"):
        builder.source(tmp_path / "file", "train")


def test_looking_ahead_does_not_move_the_position(source):
    plain = take(source)

    def pairs():
        return PairWithNext(batches(source, seed=3, batch_size=8, transform=Ids()))

    one = pairs()
    assert [next(one) for _ in range(3)] == list(zip(plain, plain[1:4], strict=False))
    other = pairs()
    other.set_state(one.get_state())
    assert next(other) == next(one) == (plain[3], plain[4])
    fresh = pairs()
    fresh.set_state(pairs().get_state())
    assert next(fresh)[0] == plain[0]
