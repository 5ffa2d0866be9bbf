"""Ports, hosts and what is set before Gradio starts; errors come before a policy is loaded."""

import socket

import pytest

from corl_jax.commands.cli import main, make_parser
from corl_jax.core.errors import UserError
from corl_jax.demo.server import bypass_proxy, check_port


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_names_the_next_free_one(taken_port, capsys, monkeypatch):
    monkeypatch.setattr("corl_jax.sampling.policy.Policy.load", lambda *a, **k: pytest.fail())
    assert main(["demo", "--port", str(taken_port)]) == 2
    error = capsys.readouterr().err
    assert f"--port must be a free port; got {taken_port}, which is in use; pass --port" in error
    free = int(error.split()[-1])
    check_port("127.0.0.1", free)
    assert taken_port < free <= taken_port + 100


def test_other_addresses_are_refused():
    with pytest.raises(UserError, match="--host must be an address of this machine"):
        check_port("192.0.2.1", 7860)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--compare", "tiny"], "--compare must be another policy than --policy; got 'tiny' twice"),
        (["--run", "no/such/run"], "must have a config.json or metrics.jsonl"),
    ],
)
def test_wrong_flags_end_before_a_policy_is_loaded(flags, text, capsys, monkeypatch):
    monkeypatch.setattr("corl_jax.sampling.policy.Policy.load", lambda *a, **k: pytest.fail())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    assert main(["demo", "--port", str(port), *flags]) == 2
    assert text in capsys.readouterr().err


def test_the_page_is_private_unless_the_flags_say_otherwise():
    args = make_parser().parse_args(["demo"])
    assert (args.policy, args.host, args.port, args.share) == ("tiny", "127.0.0.1", 7860, False)
    with pytest.raises(UserError, match="--port must be a whole number from 1 to 65535"):
        make_parser().parse_args(["demo", "--port", "0"])


def test_the_page_asks_no_proxy_about_itself(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "example.org,localhost")
    bypass_proxy()
    import os

    assert os.environ["NO_PROXY"] == "example.org,localhost,127.0.0.1,::1"
