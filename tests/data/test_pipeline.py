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
from corl_jax.data.records import check_record
from corl_jax.data.shapes.examples import example
from corl_jax.data.sources.base import MemorySource, RecordSource, SelectedRecords
from corl_jax.data.transforms import PassThrough, StackImages


@dataclasses.dataclass(frozen=True)
class RecordIds:
    """Transform to the step and the ids of all records."""

    def __call__(self, records, step):
        return step, [record.id for record in records]


@dataclasses.dataclass(frozen=True)
class RecordIdsOfRows:
    """Transform to the step and the ids of some records; reads no others."""

    rows: range

    def __call__(self, records, step):
        return step, [records[i].id for i in self.rows]


@pytest.fixture(scope="module")
def source() -> MemorySource:
    return MemorySource(example("train", i) for i in range(50))


def first_batches(source, n=12, **changes):
    """The first ``n`` batches, by default ids of 8 records each."""
    arguments = {"seed": 3, "batch_size": 8, "transform": RecordIds(), **changes}
    iterator = batches(source, **arguments)
    return [next(iterator) for _ in range(n)]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("two\nlines")])
def test_an_error_in_a_thread_names_the_batch(source, error):
    def fail_at_two(records, step):
        if step == 2:
            raise error
        return step

    iterator = batches(source, seed=3, batch_size=8, transform=fail_at_two)
    assert [next(iterator), next(iterator)] == [0, 1]
    message = rf"the batch of step 2, of the records at positions .*{type(error).__name__}"
    with pytest.raises(UserError, match=message) as raised:
        next(iterator)
    assert "\n" not in str(raised.value)


def test_order_is_a_function_of_the_seed(source):
    expected = first_batches(source)
    assert first_batches(source, threads=6, prefetch=8) == expected
    assert first_batches(source, seed=4) != expected
    assert [step for step, _ in expected] == list(range(12))

    # Six batches of 8 are an epoch; two records are left out.
    epochs = [sum((ids for _, ids in expected[start : start + 6]), []) for start in (0, 6)]
    assert all(len(set(epoch)) == 48 for epoch in epochs) and epochs[0] != epochs[1]

    in_order = first_batches(source, shuffle=False)
    assert in_order[0][1] == in_order[6][1] == [source[i].id for i in range(8)]


def test_a_process_reads_only_its_own_rows(source):
    class RecordingSource(MemorySource):
        read_ids: list[str] = []

        def __getitem__(self, index):
            self.read_ids.append(source[index].id)
            return source[index]

    recording_source = RecordingSource(source[i] for i in range(50))
    _, batch_ids = first_batches(source, 1)[0]
    _, local_ids = first_batches(
        recording_source, 1, transform=RecordIdsOfRows(range(4, 8)), threads=0
    )[0]
    assert list(local_ids) == batch_ids[4:]
    assert set(batch_ids[:4]).isdisjoint(recording_source.read_ids[:4])
    assert recording_source.read_ids[:4] == batch_ids[4:]

    images = next(batches(source, seed=3, batch_size=8, transform=StackImages(48)))
    stack_second_half = StackImages(48, lambda n: range(n // 2, n))
    second_half = next(batches(source, seed=3, batch_size=8, transform=stack_second_half))
    np.testing.assert_array_equal(second_half, images[4:])


def test_resuming_gives_the_same_next_batches(source, tmp_path):
    running = batches(source, seed=3, batch_size=8, transform=RecordIds())
    for _ in range(7):
        next(running)
    state = running.get_state()

    # The position through a checkpoint.
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(7, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(running)))
        manager.wait_until_finished()
        expected = [next(running) for _ in range(3)]
        restored = batches(source, seed=3, batch_size=8, transform=RecordIds())
        manager.restore(
            7, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(restored))
        )

    # The position through ``get_state`` and ``set_state``.
    with_state = batches(source, seed=3, batch_size=8, transform=RecordIds())
    with_state.set_state(state)
    assert [next(restored) for _ in range(3)] == expected == [next(with_state) for _ in range(3)]
    assert expected[0][0] == 7


def test_transforms(source):
    records = next(batches(source, seed=0, batch_size=4, transform=PassThrough()))
    images = next(batches(source, seed=0, batch_size=4, transform=StackImages(48)))
    assert isinstance(records, tuple)
    assert images.shape == (4, 48, 48, 3) and images.dtype == np.float32
    assert np.allclose(images[2] * 127.5 + 127.5, records[2].image, atol=1e-3)

    # Images to reconstruct are cropped: no grey borders.
    wide = dataclasses.replace(records[0], image=np.zeros((20, 60, 3), np.uint8))
    assert (StackImages(48)([wide], 0) == -1).all()


def test_a_selection_is_a_source_and_can_be_sliced(source):
    selection = SelectedRecords(source, (7, 3, 5))
    assert isinstance(selection, RecordSource) and len(selection) == 3
    assert [record.id for record in selection] == [source[i].id for i in (7, 3, 5)]
    assert selection[1:] == SelectedRecords(source, (3, 5))


@pytest.mark.parametrize("changes", [{"batch_size": 51}, {"batch_size": 0}])
def test_impossible_batches(source, changes):
    message = f"batch size must be from 1 to 50, .* got {changes['batch_size']}"
    with pytest.raises(UserError, match=message):
        first_batches(source, **changes)


def test_held_out_records_are_a_prefix_of_one_order(source):
    ids = [record.id for record in held_out_records(source, 9)]
    assert ids == [record.id for record in held_out_records(source, 20)][:9]
    assert ids != [record.id for record in held_out_records(source, 9, seed=1)]
    with pytest.raises(UserError, match="must be from 1 to 50, .* got 51"):
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
def test_an_unusable_record_is_named(changes, message):
    usable = dataclasses.replace(example("train", 0), qa_type="OE", choices=(), answer="two")
    assert check_record(usable) is usable
    with pytest.raises(UserError, match=f"shapes-train-000000.*{message}"):
        MemorySource([dataclasses.replace(usable, **changes)])


def test_ids_are_unique():
    with pytest.raises(UserError, match="twice"):
        MemorySource([example("train", 0)] * 2)


def test_the_builder_returns_its_examples(tmp_path):
    # In a process of its own, to see what is imported.
    code = (
        "import sys; from corl_jax.data.shapes import builder; "
        f"rows = builder.source({str(tmp_path)!r}, 'test', {{'train': 20, 'test': 10}}); "
        "assert 'tensorflow' not in sys.modules; print(len(rows), rows[3].id)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout == "10 shapes-test-000003\n"

    from corl_jax.data.shapes import builder

    rows = builder.source(tmp_path, "train", {"train": 20, "test": 10})
    assert isinstance(rows, RecordSource) and len(rows) == 20
    for i in (0, 7, 19):
        for field in dataclasses.fields(rows[i]):
            stored = getattr(rows[i], field.name)
            expected = getattr(example("train", i), field.name)
            assert type(stored) is type(expected), field.name
            assert np.array_equal(stored, expected), field.name
    assert not list(tmp_path.glob("**/*incomplete*"))

    with pytest.raises(UserError, match="must be one of train, test; got 'dev'"):
        builder.source(tmp_path, "dev")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="another data_dir"):
        builder.source(tmp_path / "file", "train")


def test_reading_ahead_does_not_move_the_position(source):
    expected = first_batches(source)

    def pairs():
        return PairWithNext(batches(source, seed=3, batch_size=8, transform=RecordIds()))

    running = pairs()
    assert [next(running) for _ in range(3)] == list(zip(expected, expected[1:4], strict=False))
    resumed = pairs()
    resumed.set_state(running.get_state())
    assert next(resumed) == next(running) == (expected[3], expected[4])

    # The state of an iterator that was never used.
    fresh = pairs()
    fresh.set_state(pairs().get_state())
    assert next(fresh)[0] == expected[0]
