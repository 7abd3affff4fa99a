"""The asyncio endpoints over loopback: what the docstring of ``endpoint.py`` promises."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable

import pytest
from rtmp_actors import Client, MovingClient, Server, listening, play, publish
from rtmp_stage import URL, until

from reference_impl.rtmp import endpoint
from reference_impl.rtmp.endpoint import PublishConnection, ServerConnection
from reference_impl.rtmp.errors import LocalProtocolError, RemoteProtocolError
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.rtmp.states import ClientState, ServerState

FRAME = MediaMessage("video", 40, b"\x27\x01" + bytes(5000))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("pipelined", [True, False])
async def test_a_stream_is_published_played_and_ended(host: str, pipelined: bool) -> None:
    if host == "::1" and not _has_ipv6():
        pytest.skip("no IPv6 loopback on this machine")
    server, publisher, player = Server(), Client(), Client()
    async with listening(server, host=host) as url:
        source = await publish(url, publisher, pipelined=pipelined)
        await until(lambda: publisher.named("publish_started"))
        viewer = await play(url, player, pipelined=pipelined)
        await until(lambda: player.named("play_started"))
        sent = [MediaMessage("video", number * 40, b"\x27\x01" + bytes(number * 100)) for number in range(50)]
        for message in sent:
            source.send(message)
        await until(lambda: len(player.messages) == 50)
        assert server.messages == player.messages == sent
        assert source.queued_bytes == 0
        assert source.written_bytes > sum(len(message.payload) for message in sent)
        source.finish()
        viewer.finish()
        await until(lambda: publisher.lost and player.lost and len(server.named("connection_lost")) == 2)
    assert server.named("publish_requested") == server.named("play_requested") == [("live", "cam1?key=secret")]
    assert server.named("publish_ended") == [("FCUnpublish",)]
    assert publisher.calls == [("publish_started",), ("connection_lost", None)]
    assert player.calls == [("play_started",), ("connection_lost", None)]
    assert server.named("connection_lost") == [(None,), (None,)]


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


async def test_nothing_is_sent_before_start_and_nothing_can_be_published_before_it_started() -> None:
    server, client = Server(), Client()
    async with listening(server) as url:
        connection = PublishConnection(url, client)
        await asyncio.get_running_loop().create_connection(lambda: connection, url.host, url.port)
        await until(lambda: server.connections)
        await asyncio.sleep(0.02)
        assert server.connections[0].received_bytes == connection.written_bytes == 0
        with pytest.raises(ConnectionError, match="not started"):
            connection.send(FRAME)
        connection.start()
        with pytest.raises(LocalProtocolError):
            connection.start()
        await until(lambda: client.named("publish_started"))
        connection.abort()


async def test_small_messages_do_not_wait_for_acknowledgements() -> None:
    server, client = Server(), Client()
    async with listening(server) as url:
        before = time.monotonic()
        connection = await publish(url, client, pipelined=False)
        await until(lambda: client.named("publish_started"))
        # With Nagle's algorithm each of the four round trips would cost a delayed acknowledgement, 40 ms.
        assert time.monotonic() - before < 0.1
        for end in (connection, server.connections[0]):
            assert end.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.abort()


# --- how a server may say no -----------------------------------------------------------------------------------


def keep_open(connection: ServerConnection) -> None:
    connection.refuse_publish("NetStream.Publish.BadName", "Already publishing", close=False)


def and_close(connection: ServerConnection) -> None:
    connection.refuse_publish("NetStream.Publish.BadName", "Already publishing", close=True)


def start_then_close(connection: ServerConnection) -> None:
    connection.accept_publish()
    connection.close()


BAD_NAME = ("publish_refused", "NetStream.Publish.BadName", "Already publishing")
END = ("connection_lost", None)


@pytest.mark.parametrize(
    ("answer", "calls"),
    [(keep_open, [BAD_NAME]), (and_close, [BAD_NAME, END]), (start_then_close, [("publish_started",), END])],
)
async def test_a_server_can_behave_like_each_known_one(
    answer: Callable[[ServerConnection], None], calls: list[tuple[object, ...]]
) -> None:
    server, client = Server(), Client()
    server.on_publish = answer
    async with listening(server) as url:
        connection = await publish(url, client)
        await until(lambda: client.calls == calls)
        await asyncio.sleep(0.02)
        assert client.calls == calls
        with pytest.raises(ConnectionError):
            connection.send(FRAME)
        connection.close()
        await until(lambda: client.lost)


async def test_a_publish_can_be_accepted_long_after_it_was_asked_for() -> None:
    server, client = Server(), Client()
    server.on_publish = lambda _connection: None
    async with listening(server, setup_limit=0.05) as url:
        connection = await publish(url, client)
        await until(lambda: server.named("publish_requested"))
        await asyncio.sleep(0.1)
        assert client.calls == []
        server.connections[0].accept_publish()
        await until(lambda: client.named("publish_started"))
        connection.abort()


async def test_a_peer_that_asks_for_nothing_is_dropped_after_the_setup_limit() -> None:
    server = Server()
    async with listening(server, setup_limit=0.05) as url:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"\x03")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await writer.wait_closed()
        ((error,),) = server.named("connection_lost")
    assert isinstance(error, RemoteProtocolError)
    assert "setup_limit=0.05 s, it was shaking hands" in str(error)


# --- how a connection ends -------------------------------------------------------------------------------------


async def test_an_abort_is_a_reset_for_the_other_side() -> None:
    server, client = Server(), Client()
    async with listening(server) as url:
        connection = await publish(url, client)
        await until(lambda: client.named("publish_started"))
        connection.abort()
        assert not client.lost, "connection_lost must not be called before abort() returns"
        connection.abort()
        await until(lambda: client.lost and server.named("connection_lost"))
    assert client.calls[-1] == END
    ((error,),) = server.named("connection_lost")
    assert isinstance(error, ConnectionResetError)
    assert server.named("publish_ended") == []


async def test_closing_a_connection_that_the_peer_has_just_reset_is_harmless() -> None:
    server, client = Server(), Client()
    async with listening(server) as url:
        connection = await publish(url, client)
        await until(lambda: client.named("publish_started"))
        (ours,) = server.connections
        ours.transport.pause_reading()
        connection.abort()
        await until(lambda: client.lost)
        ours.close()
        await until(lambda: server.named("connection_lost"))
    ((error,),) = server.named("connection_lost")
    assert isinstance(error, OSError)


async def test_a_peer_that_does_not_close_its_side_is_waited_for_no_longer_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "CLOSE_LIMIT", 0.05)
    server = Server()
    async with listening(server) as url:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        await until(lambda: server.connections)
        server.connections[0].close()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        assert server.named("connection_lost") == []
        await until(lambda: server.named("connection_lost"))
        writer.close()
        await writer.wait_closed()
    assert server.named("connection_lost") == [(None,)]


async def test_a_publisher_that_just_closes_did_not_end_its_publish_in_order() -> None:
    server, client = Server(), Client()
    async with listening(server) as url:
        connection = await publish(url, client)
        await until(lambda: client.named("publish_started"))
        connection.close()
        await until(lambda: server.named("connection_lost"))
    assert server.named("connection_lost") == [(None,)]
    assert server.named("publish_ended") == []


async def test_a_peer_that_speaks_something_else_is_dropped_with_the_reason() -> None:
    server = Server()
    async with listening(server) as url:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await writer.wait_closed()
    ((error,),) = server.named("connection_lost")
    assert isinstance(error, RemoteProtocolError)
    assert "not RTMP" in str(error)


async def test_finish_before_the_start_and_twice_just_closes() -> None:
    server, client = Server(), Client()
    async with listening(server) as url:
        connection = PublishConnection(url, client)
        await asyncio.get_running_loop().create_connection(lambda: connection, url.host, url.port)
        connection.finish()
        connection.finish()
        await until(lambda: client.lost)
    assert client.calls == [END]


def test_a_connection_that_never_was_can_be_closed_and_asked() -> None:
    connection = PublishConnection(URL, Client())
    connection.abort()
    connection.close()
    assert connection.queued_bytes == 0
    assert connection.peer == ""
    assert connection.state is ClientState.IDLE


class DyingTransport(asyncio.Transport):
    """Reads an end of file although the kernel knows an error."""

    def __init__(self) -> None:
        super().__init__(extra={"tcp_error": lambda: TimeoutError(errno.ETIMEDOUT, "Connection timed out")})

    def is_closing(self) -> bool:
        return False


def test_the_first_cause_is_told_also_where_asyncio_only_saw_an_end_of_file() -> None:
    client = Client()
    connection = PublishConnection(URL, client)
    connection.connection_made(DyingTransport())
    connection.eof_received()
    connection.connection_lost(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    ((error,),) = client.named("connection_lost")
    assert isinstance(error, TimeoutError)


async def test_an_exception_of_a_callback_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    server, client = Server(), Client()

    def fail(_connection: ServerConnection, _message: MediaMessage) -> None:
        raise ZeroDivisionError("a mistake of the listener")

    server.on_media = fail
    async with listening(server) as url:
        connection = await publish(url, client)
        await until(lambda: client.named("publish_started"))
        with caplog.at_level(logging.CRITICAL, logger="asyncio"):
            connection.send(FRAME)
            await until(lambda: server.named("connection_lost") and client.lost)
    ((error,),) = server.named("connection_lost")
    assert isinstance(error, ZeroDivisionError)


async def test_nothing_but_connection_lost_is_called_after_an_abort() -> None:
    server, client = Server(), Client()
    server.on_media = lambda connection, _message: connection.abort()
    async with listening(server) as url:
        connection = await publish(url, client)
        await until(lambda: client.named("publish_started"))
        for _ in range(20):
            connection.send(FRAME)
        await until(lambda: server.named("connection_lost"))
    assert len(server.messages) == 1
    assert server.named("connection_lost") == [(None,)]


# --- playing ---------------------------------------------------------------------------------------------------


async def test_the_end_of_the_source_is_told_to_the_player_before_the_connection_closes() -> None:
    server, client = Server(), Client()
    async with listening(server) as url:
        await play(url, client)
        await until(lambda: client.named("play_started"))
        server.connections[0].end_play()
        server.connections[0].end_play()
        server.connections[0].send(FRAME)
        await until(lambda: client.lost)
    assert client.calls[1:] == [("play_ended", "NetStream.Play.UnpublishNotify"), END]


async def test_a_player_may_wait_for_the_source_to_come_back() -> None:
    server, client = Server(), Client()
    async with listening(server) as url:
        connection = await play(url, client)
        await until(lambda: client.named("play_started"))
        server.connections[0].end_play(close=False)
        await until(lambda: client.named("play_ended"))
        assert server.connections[0].state is ServerState.CONNECTED
        with pytest.raises(LocalProtocolError):
            server.connections[0].send(FRAME)
        connection.abort()


async def test_a_refused_play_says_why() -> None:
    server, client = Server(), Client()
    server.on_play = lambda connection: connection.refuse_play("NetStream.Play.StreamNotFound", "no", close=True)
    async with listening(server) as url:
        await play(url, client)
        await until(lambda: client.lost)
    assert client.calls == [("play_refused", "NetStream.Play.StreamNotFound"), END]


async def test_a_leaving_player_is_told_to_a_listener_that_wants_to_know() -> None:
    class Curious(Server):
        def play_ended(self, _connection: ServerConnection) -> None:
            self.calls.append(("play_ended",))

    server, client = Curious(), Client()
    async with listening(server) as url:
        connection = await play(url, client)
        await until(lambda: client.named("play_started"))
        connection.finish()
        await until(lambda: server.named("connection_lost"))
    assert server.named("play_ended") == [()]


# --- the rest --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("client", "calls"), [(MovingClient(), [("rtmp://b.test/live",), (None,)]), (Client(), [])])
async def test_a_reconnect_request_reaches_a_listener_that_can_obey(
    client: Client, calls: list[tuple[object, ...]]
) -> None:
    server = Server()
    async with listening(server) as url:
        connection = await publish(url, client)
        await until(lambda: client.named("publish_started"))
        (ours,) = server.connections
        assert ours.client_can_reconnect is isinstance(client, MovingClient)
        ours.request_reconnect("rtmp://b.test/live")
        ours.request_reconnect()
        ours.ping(77)
        await until(lambda: ours.last_pong == 77)
        assert client.named("reconnect_requested") == calls
        assert ours.peer == f"127.0.0.1:{connection.transport.get_extra_info('sockname')[1]}"
        connection.abort()


async def test_what_the_kernel_does_not_take_is_queued_and_counted() -> None:
    server, client = Server(), Client()
    async with listening(server) as url:
        connection = await publish(url, client)
        await until(lambda: client.named("publish_started"))
        server.connections[0].transport.pause_reading()
        big = MediaMessage("video", 0, bytes(4_000_000))
        for _ in range(4):
            connection.send(big)
        await asyncio.sleep(0.02)
        assert 0 < connection.queued_bytes < connection.written_bytes
        server.connections[0].transport.resume_reading()
        await until(lambda: connection.queued_bytes == 0 and len(server.messages) == 4)
        assert connection.acknowledged_bytes > 10_000_000
        connection.abort()
