"""Client and server in one process without sockets: the conversation, its freedoms and its illegal steps."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rtmp_stage import URL, Pair, Peer, Role, started

from reference_impl.rtmp import amf0, commands, protocol
from reference_impl.rtmp.chunks import Message
from reference_impl.rtmp.commands import Command, UserEvent
from reference_impl.rtmp.errors import LocalProtocolError, RemoteProtocolError
from reference_impl.rtmp.limits import Limits
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.rtmp.protocol import ClientProtocol, ServerProtocol
from reference_impl.rtmp.states import CLIENT, SERVER, ClientState, ClientStep, Machine, ServerState, ServerStep

S = TypeVar("S", bound=Enum)
T = TypeVar("T", bound=Enum)


@pytest.mark.parametrize("pipelined", [True, False])
@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_a_publish_starts_carries_media_and_ends(pipelined: bool, seed: int) -> None:
    pair = started(pipelined=pipelined, seed=seed)
    assert pair.seen == {
        "client": [protocol.Started()],
        "server": [protocol.PublishRequested("live", "cam1?key=secret")],
    }
    media = [
        MediaMessage("script", 0, amf0.encode("onMetaData", amf0.EcmaArray(width=1280.0))),
        MediaMessage("video", 40, bytes(range(256)) * 40),
        MediaMessage("audio", 41, b"\xaf\x01sound"),
    ]
    for message in media:
        pair.client.send(message)
    pair.run()
    assert pair.seen["server"][1:] == media
    pair.client.finish()
    pair.run()
    assert pair.seen["server"][4:] == [protocol.PublishEnded("FCUnpublish")]
    assert pair.server.state is ServerState.CONNECTED
    assert pair.client.state is ClientState.FINISHED


@pytest.mark.parametrize("pipelined", [True, False])
def test_a_play_starts_gets_media_and_ends(pipelined: bool) -> None:
    pair = started("play", pipelined=pipelined)
    media = [MediaMessage("video", 2**32 - 10, b"before"), MediaMessage("video", 2**32 + 30, b"after")]
    for message in media:
        pair.server.send(message)
    pair.run()
    pair.server.end_play("NetStream.Play.UnpublishNotify", "gone")
    pair.run()
    assert pair.seen["client"] == [protocol.Started(), *media, protocol.Ended("NetStream.Play.UnpublishNotify")]
    assert pair.seen["server"] == [protocol.PlayRequested("live", "cam1?key=secret")]


def test_pipelining_saves_round_trips() -> None:
    # C0 and C1; then C2 with all commands behind it, or C2 and connect, createStream, publish one after the other.
    assert started().flights_to_start == 2
    assert started(pipelined=False).flights_to_start == 4


@pytest.mark.parametrize(
    ("role", "code"), [("publish", "NetStream.Publish.BadName"), ("play", "NetStream.Play.StreamNotFound")]
)
def test_a_refusal_says_why_and_leaves_the_connection_usable(role: Role, code: str) -> None:
    pair = started(role, answer="refuse")
    (event,) = pair.seen["client"]
    assert isinstance(event, protocol.Refused)
    assert event.code == code
    assert pair.server.state is ServerState.CONNECTED


def test_a_running_publish_can_be_revoked() -> None:
    pair = started()
    pair.server.refuse_publish("NetStream.Publish.BadName", "taken over")
    pair.run()
    assert pair.seen["client"] == [protocol.Started(), protocol.Refused("NetStream.Publish.BadName", "taken over")]
    with pytest.raises(LocalProtocolError):
        pair.client.send(MediaMessage("video", 0, b""))


def test_an_answer_may_come_later() -> None:
    pair = started(answer="none")
    assert pair.client.state is ClientState.REQUESTED
    pair.server.accept_publish()
    pair.run()
    assert pair.seen["client"] == [protocol.Started()]


def test_time_counts_anew_from_each_publish() -> None:
    server, peer = publishing()
    assert peer.send(Message(commands.VIDEO, 1, 2**32 - 10, b"x")) == [MediaMessage("video", 2**32 - 10, b"x")]
    assert peer.send(Message(commands.VIDEO, 1, 5, b"x")) == [MediaMessage("video", 2**32 + 5, b"x")]
    peer.tell(Command("FCUnpublish", 0, (None, "cam1")))
    peer.tell(Command("publish", 5, (None, "cam1", "live"), 1))
    server.accept_publish()
    assert peer.send(Message(commands.VIDEO, 1, 5, b"x")) == [MediaMessage("video", 5, b"x")]


def test_the_client_asks_for_a_reconnect_only_if_it_can() -> None:
    pair = started()
    assert not pair.server.client_can_reconnect
    pair.server.request_reconnect("rtmp://other.test/live", "maintenance")
    pair.run()
    assert pair.seen["client"][-1] == protocol.ReconnectRequested("rtmp://other.test/live", "maintenance")


def test_a_server_that_counts_its_streams_otherwise_gets_the_publish_again() -> None:
    client = ClientProtocol(URL, "publish")
    peer = Peer(client).shake_hands_as_server()
    asked = peer.commands()
    assert [command.name for command in asked] == ["connect", "releaseStream", "FCPublish", "createStream", "publish"]
    peer.tell(Command("_result", asked[0].transaction, ({}, {})))
    peer.tell(Command("_result", asked[3].transaction, (None, 5.0)))
    (again,) = peer.commands()
    assert (again.name, again.stream_id) == ("publish", 5)
    failed = {"level": "error", "code": "NetStream.Publish.Failed", "description": "no such stream"}
    assert peer.tell(Command("onStatus", 0, (None, failed), 1)) == []
    good = {"level": "status", "code": "NetStream.Publish.Start", "description": ""}
    assert peer.tell(Command("onStatus", 0, (None, good), 5)) == [protocol.Started()]


def test_a_refused_connect_is_a_refusal_whatever_comes_after_it() -> None:
    client = ClientProtocol(URL, "publish")
    peer = Peer(client).shake_hands_as_server()
    connect, *_, create, _publish = peer.commands()
    why = {"level": "error", "code": "NetConnection.Connect.Rejected", "description": "no such app"}
    refused = [protocol.Refused("NetConnection.Connect.Rejected", "no such app")]
    assert peer.tell(Command("_error", connect.transaction, (None, why))) == refused
    assert peer.tell(Command("_error", create.transaction, (None, why))) == []


def test_a_result_without_a_stream_id_is_the_peers_error() -> None:
    client = ClientProtocol(URL, "publish")
    peer = Peer(client).shake_hands_as_server()
    connect, *_, create, _publish = peer.commands()
    peer.tell(Command("_result", connect.transaction, ({}, {})))
    with pytest.raises(RemoteProtocolError, match="without a stream id"):
        peer.tell(Command("_result", create.transaction, (None, "one")))


# --- what the protocol owes ------------------------------------------------------------------------------------


def test_a_ping_is_answered_with_its_own_time() -> None:
    peer = Peer(ServerProtocol()).shake_hands_as_client()
    peer.send(commands.user_control(UserEvent.PING_REQUEST, 0xDEAD_BEEF))
    assert peer.messages() == [commands.user_control(UserEvent.PING_RESPONSE, 0xDEAD_BEEF)]


def test_our_ping_is_answered_by_the_other_side() -> None:
    pair = started()
    pair.server.wire.ping(4711)
    pair.run()
    assert pair.server.wire.last_ping_response == 4711


def test_received_bytes_are_acknowledged_before_the_window_is_full() -> None:
    peer = Peer(ServerProtocol()).connect()
    peer.send(commands.window_ack_size(10_000))
    for _ in range(20):
        peer.send(Message(commands.VIDEO, 1, 0, bytes(1000)))
    acknowledged = [commands.read_number(m) for m in peer.messages() if m.type_id == commands.ACKNOWLEDGEMENT]
    assert len(acknowledged) in (3, 4)
    assert all(later - earlier < 10_000 for earlier, later in zip([0, *acknowledged], acknowledged, strict=False))


def test_a_publisher_learns_what_the_servers_rtmp_has_got() -> None:
    pair = started()
    for number in range(100):
        pair.client.send(MediaMessage("video", number, bytes(30_000)))
    pair.run()
    assert 1_250_000 <= pair.client.wire.acknowledged_bytes <= 3_100_000


def test_the_peers_bandwidth_is_answered_with_a_window_once() -> None:
    peer = Peer(ServerProtocol()).shake_hands_as_client()
    peer.send(commands.set_peer_bandwidth(5_000_000))
    peer.send(commands.set_peer_bandwidth(5_000_000))
    assert peer.messages() == [commands.window_ack_size(5_000_000)]


def test_formalities_are_answered_unless_their_transaction_is_0() -> None:
    peer = Peer(ServerProtocol()).connect()
    for name in ("releaseStream", "FCPublish", "_checkbw", "getStreamLength"):
        peer.tell(Command(name, 9, (None, "cam1")))
        assert ("_result", 9.0) in [(command.name, command.transaction) for command in peer.commands()]
    # GStreamer's rtmp2sink does this.
    peer.tell(Command("releaseStream", 0, (None, "cam1")))
    assert peer.commands() == []


def test_publish_start_comes_on_the_message_stream_of_the_publish() -> None:
    server = ServerProtocol()
    peer = Peer(server).connect()
    peer.tell(Command("createStream", 3, (None,)))
    peer.tell(Command("publish", 4, (None, "cam1", "live"), 2))
    server.accept_publish()
    (status,) = [command for command in peer.commands() if command.name == "onStatus"]
    assert status.stream_id == 2


# --- freedoms of the peer --------------------------------------------------------------------------------------


def publishing() -> tuple[ServerProtocol, Peer]:
    server = ServerProtocol()
    peer = Peer(server).connect()
    peer.tell(Command("publish", 3, (None, "cam1", "live"), 1))
    server.accept_publish()
    return server, peer


def test_metadata_come_without_set_data_frame_and_also_as_amf3_message() -> None:
    _, peer = publishing()
    metadata = amf0.encode("onMetaData", amf0.EcmaArray(width=1.0))
    framed = amf0.encode("@setDataFrame") + metadata
    assert peer.send(Message(commands.DATA, 1, 0, framed)) == [MediaMessage("script", 0, metadata)]
    assert peer.send(Message(commands.DATA_AMF3, 1, 0, b"\x00" + framed)) == [MediaMessage("script", 0, metadata)]


def test_commands_may_come_as_amf3_messages() -> None:
    peer = Peer(ServerProtocol()).connect()
    body = Command("publish", 3, (None, "cam1", "live"), 1).to_message().payload
    assert peer.send(Message(commands.COMMAND_AMF3, 1, 0, b"\x00" + body)) == [
        protocol.PublishRequested("live", "cam1")
    ]


def test_the_capabilities_of_enhanced_rtmp_are_tolerated_and_kept() -> None:
    server = ServerProtocol()
    peer = Peer(server).shake_hands_as_client()
    offer = {"app": "live/", "capsEx": 1.0, "fourCcList": ["hvc1", "av01"], "videoFourCcInfoMap": {"*": 4.0}}
    peer.tell(Command("connect", 1, (offer,)))
    assert server.app == "live"
    assert server.client_can_reconnect
    assert server.capabilities["fourCcList"] == ["hvc1", "av01"]


def test_an_aggregate_message_is_taken_apart_with_its_times() -> None:
    _, peer = publishing()
    tags = [(9, 1000, b"video"), (8, 1010, b"audio"), (18, 0x0100_0000 + 1000, b"\x02\x00\x01x")]
    body = b"".join(
        bytes([kind])
        + len(data).to_bytes(3, "big")
        + (time & 0xFF_FFFF).to_bytes(3, "big")
        + bytes([time >> 24])
        + bytes(3)
        + data
        + struct.pack(">I", 11 + len(data))
        for kind, time, data in tags
    )
    assert peer.send(Message(commands.AGGREGATE, 1, 5000, body)) == [
        MediaMessage("video", 5000, b"video"),
        MediaMessage("audio", 5010, b"audio"),
        MediaMessage("script", 0x0100_0000 + 5000, b"\x02\x00\x01x"),
    ]
    for wrong in (body[:5], body[:14], b"\x63" + body[1:]):
        with pytest.raises(RemoteProtocolError, match="aggregate"):
            Peer.send(publishing()[1], Message(commands.AGGREGATE, 1, 5000, wrong))


def test_a_command_without_a_transaction_id_is_read() -> None:
    # ffmpeg -listen answers FCPublish so.
    peer = Peer(ClientProtocol(URL, "publish")).shake_hands_as_server()
    assert peer.send(Message(commands.COMMAND, 0, 0, amf0.encode("onFCPublish"))) == []
    with pytest.raises(RemoteProtocolError, match="without a name"):
        peer.send(Message(commands.COMMAND, 0, 0, amf0.encode(1, "onFCPublish")))


def test_media_of_nobody_are_ignored() -> None:
    server, peer = publishing()
    assert peer.send(Message(commands.VIDEO, 7, 0, b"other stream")) == []
    assert peer.tell(Command("closeStream", 0, (None,), 1)) == [protocol.PublishEnded("closeStream")]
    assert peer.send(Message(commands.VIDEO, 1, 0, b"trailing")) == []
    assert server.state is ServerState.CONNECTED


def test_a_connection_may_publish_a_second_time() -> None:
    server, peer = publishing()
    assert peer.tell(Command("deleteStream", 0, (None, 1.0))) == [protocol.PublishEnded("deleteStream")]
    assert peer.tell(Command("publish", 5, (None, "cam2", "live"), 1)) == [protocol.PublishRequested("live", "cam2")]
    server.accept_publish()


def test_a_command_in_force_while_iterating_holds_for_the_messages_behind_it() -> None:
    server = ServerProtocol()
    peer = Peer(server).connect()
    publish = Command("publish", 3, (None, "cam1", "live"), 1).to_message()
    together = peer.writer.write(publish, chunk_stream=3)
    together += peer.writer.write(Message(commands.VIDEO, 1, 0, b"first"), chunk_stream=6)
    events = server.receive(b"".join(together))
    assert next(events) == protocol.PublishRequested("live", "cam1")
    server.accept_publish()
    assert list(events) == [MediaMessage("video", 0, b"first")]


# --- illegal steps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ClientState)
@pytest.mark.parametrize("step", ClientStep)
def test_an_illegal_step_of_the_client_changes_nothing(state: ClientState, step: ClientStep) -> None:
    check_step(Machine(CLIENT, state), state, step, CLIENT[state].get(step))


@pytest.mark.parametrize("state", ServerState)
@pytest.mark.parametrize("step", ServerStep)
def test_an_illegal_step_of_the_server_changes_nothing(state: ServerState, step: ServerStep) -> None:
    check_step(Machine(SERVER, state), state, step, SERVER[state].get(step))


def check_step(machine: Machine[S, T], state: S, step: T, following: S | None) -> None:
    if following is not None:
        machine.ours(step)
        assert machine.state is following
        return
    with pytest.raises(LocalProtocolError, match=step.value):
        machine.ours(step)
    with pytest.raises(RemoteProtocolError, match=state.value):
        machine.theirs(step)
    assert machine.state is state


def test_every_state_can_be_reached() -> None:
    assert reachable(CLIENT, ClientState.IDLE) == set(ClientState)
    assert reachable(SERVER, ServerState.HANDSHAKE) == set(ServerState)


def reachable(table: Mapping[S, Mapping[T, S]], start: S) -> set[S]:
    found, to_do = {start}, [start]
    while to_do:
        new = set(table[to_do.pop()].values()) - found
        found |= new
        to_do += new
    return found


MISUSES: dict[str, Callable[[Pair], None]] = {
    "start twice": lambda pair: pair.client.start(),
    "accept twice": lambda pair: pair.server.accept_publish(),
    "accept a play of a publisher": lambda pair: pair.server.accept_play(),
    "refuse a play of a publisher": lambda pair: pair.server.refuse_play("NetStream.Play.Failed", ""),
    "end the play of a publisher": lambda pair: pair.server.end_play("NetStream.Play.Stop", ""),
    "play to a publisher": lambda pair: pair.server.send(MediaMessage("video", 0, b"")),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_is_our_error_and_sends_nothing(misuse: str) -> None:
    pair = started()
    before = (pair.client.state, pair.server.state)
    with pytest.raises(LocalProtocolError):
        MISUSES[misuse](pair)
    assert (pair.client.state, pair.server.state) == before
    assert pair.client.take_output() == pair.server.take_output() == []


def test_sending_before_the_start_is_our_error() -> None:
    client = ClientProtocol(URL, "publish")
    with pytest.raises(LocalProtocolError, match="not started"):
        client.send(MediaMessage("video", 0, b""))
    with pytest.raises(LocalProtocolError):
        ServerProtocol().request_reconnect("", "")


OFFENCES: dict[str, list[Command]] = {
    "createStream before connect": [Command("createStream", 2, (None,))],
    "publish before connect": [Command("publish", 2, (None, "cam1"), 1)],
    "connect without an application": [Command("connect", 1, ({},))],
    "connect twice": [Command("connect", 1, ({"app": "live"},))] * 2,
    "publish without a stream": [
        Command("connect", 1, ({"app": "live"},)),
        Command("publish", 2, (None, "cam1"), 1),
    ],
    "publish without a name": [
        Command("connect", 1, ({"app": "live"},)),
        Command("createStream", 2, (None,)),
        Command("publish", 3, (None,), 1),
    ],
    "publish and play at once": [
        Command("connect", 1, ({"app": "live"},)),
        Command("createStream", 2, (None,)),
        Command("publish", 3, (None, "cam1"), 1),
        Command("play", 4, (None, "cam1"), 1),
    ],
}


@pytest.mark.parametrize("offence", OFFENCES)
def test_a_clients_offence_is_the_peers_error_and_changes_nothing(offence: str) -> None:
    server = ServerProtocol()
    peer = Peer(server).shake_hands_as_client()
    *legal, illegal = OFFENCES[offence]
    for command in legal:
        peer.tell(command)
    before = server.state
    with pytest.raises(RemoteProtocolError):
        peer.tell(illegal)
    assert server.state is before


def test_message_streams_are_limited() -> None:
    peer = Peer(ServerProtocol(limits=Limits(message_streams=2))).connect()
    peer.tell(Command("createStream", 3, (None,)))
    with pytest.raises(RemoteProtocolError, match="limit of 2"):
        peer.tell(Command("createStream", 4, (None,)))


@given(data=st.binary(max_size=300), type_id=st.sampled_from([0, 1, 2, 3, 4, 5, 6, 8, 9, 15, 17, 18, 20, 22, 99]))
def test_a_message_of_rubbish_raises_nothing_but_the_protocol_error(data: bytes, type_id: int) -> None:
    for tested in (publishing()[1], Peer(ClientProtocol(URL, "play")).shake_hands_as_server()):
        with contextlib.suppress(RemoteProtocolError):
            tested.send(Message(type_id, 1, 0, data))


@given(
    name=st.sampled_from(["connect", "publish", "play", "onStatus", "_result", "_error", "deleteStream"]),
    arguments=st.lists(
        st.one_of(
            st.none(),
            st.floats(),
            st.text(max_size=5),
            st.dictionaries(
                st.sampled_from(["app", "code", "level", "capsEx", "tcUrl"]),
                st.one_of(st.none(), st.floats(), st.text(max_size=5)),
            ),
        ),
        max_size=3,
    ),
    transaction=st.floats(),
    stream_id=st.integers(0, 2),
)
def test_a_command_with_any_arguments_raises_nothing_but_the_protocol_error(
    name: str, arguments: list[amf0.Value], transaction: float, stream_id: int
) -> None:
    for tested in (publishing()[1], Peer(ClientProtocol(URL, "play")).shake_hands_as_server()):
        with contextlib.suppress(RemoteProtocolError):
            tested.tell(Command(name, transaction, tuple(arguments), stream_id))
        server = tested.tested
        assert not isinstance(server, ServerProtocol) or server.client_can_reconnect in (True, False)
