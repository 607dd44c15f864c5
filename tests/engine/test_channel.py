"""Messages over a socket: whole, in order, and the end is seen."""

from __future__ import annotations

import socket
import threading

import pytest

from dure.engine.ranks.channel import Channel


def test_messages_come_whole_and_in_order_however_they_were_cut() -> None:
    """Several in one read, an empty one, and one that takes many reads."""
    ours, theirs = socket.socketpair()
    channel, messages = Channel(theirs), [b"first", b"", bytes(range(256)) * 8000, b"last"]

    def send_all() -> None:
        sending = Channel(ours)
        for message in messages:
            sending.send(message)

    with ours:
        sender = threading.Thread(target=send_all)
        sender.start()
        assert [channel.receive() for _ in messages] == messages
        sender.join()
        assert not channel.wait(0)
    channel.close()


def test_what_came_with_another_message_is_there() -> None:
    ours, theirs = (Channel(end) for end in socket.socketpair())
    ours.send(b"one")
    ours.send(b"two")
    assert theirs.wait(1)
    assert theirs.receive() == b"one"
    assert theirs.wait(0)
    assert theirs.receive() == b"two"
    ours.close()
    theirs.close()


@pytest.mark.parametrize("sent", [b"", b"\5\0\0", b"\5\0\0\0\0\0\0\0abc"])
def test_an_end_is_seen_also_within_a_message(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    ours.sendall(sent)
    ours.close()
    assert channel.wait(1)
    with pytest.raises(EOFError, match="closed"):
        channel.receive()
    with pytest.raises(OSError, match="Broken pipe"):
        channel.send(b"x")
    channel.close()
