"""The benchmark of checkpoints: a small state on this disk."""

import json

from corl_jax.commands.cli import main


def test_a_checkpoint_that_is_written_while_the_devices_sample_holds_nothing(tmp_path, capsys):
    command = ["bench", "checkpoint", str(tmp_path / "w"), "--gigabytes", "0.1"]
    flags = ["--rollout-seconds", "3", "--repeats", "1", "--json", str(tmp_path / "out.json")]
    assert main([*command, *flags]) == 0
    values = json.loads((tmp_path / "out.json").read_text())
    (row,) = values["checkpoints"]
    assert values["held_seconds"] == row["held"] and 0 < row["save"] <= row["held"]
    assert 0 < values["frozen_gb"] < values["state_gb"] < 0.2
    assert values["peak_host_gb"] >= values["peak_host_gb_before"] > values["state_gb"]
    assert f"held for at most {row['held']:.2f} s" in capsys.readouterr().out

    # A folder with files is refused, and so is a state that does not fit.
    assert main([*command]) == 2
    assert "must be a new folder" in capsys.readouterr().err
    assert main(["bench", "checkpoint", str(tmp_path / "v"), "--gigabytes", "1000"]) == 2
    assert "of memory that are free here; got 1000" in capsys.readouterr().err
