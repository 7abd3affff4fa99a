"""Our RTMP against ffmpeg, nginx-rtmp and PyAV's FFmpeg, both ways; what arrives is compared packet by packet."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rtmp_actors import Client, Server, listening, play, publish
from rtmp_peers import (
    HASH_OUTPUT,
    free_port,
    make_flv,
    needs_ffmpeg,
    needs_nginx,
    nginx,
    running,
    split_flv,
    stream_hashes,
    until_listening,
)
from rtmp_stage import until

from reference_impl.rtmp.endpoint import PublishConnection, ServerConnection
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.rtmp.url import RtmpUrl

pytestmark = [pytest.mark.peer, needs_ffmpeg]

FFMPEG = ["ffmpeg", "-v", "error", "-nostdin"]
PYAV_REMUX = """
import sys, av
with av.open(sys.argv[1]) as source, av.open(sys.argv[2], "w", format="flv") as sink:
    streams = {stream.index: sink.add_stream_from_template(stream) for stream in source.streams}
    for packet in source.demux():
        if packet.dts is not None:
            packet.stream = streams[packet.stream.index]
            sink.mux(packet)
"""


@pytest.fixture(scope="module")
def flv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a stream, as a file."""
    path = tmp_path_factory.mktemp("media") / "stream.flv"
    make_flv(path)
    return path


def pictures(messages: list[MediaMessage]) -> list[bytes]:
    """Payloads of the coded pictures (neither sequence header nor end of sequence)."""
    return [m.payload for m in messages if m.kind == "video" and m.payload[1] == 1]


def sounds(messages: list[MediaMessage]) -> list[bytes]:
    """Payloads of the coded audio frames."""
    return [m.payload for m in messages if m.kind == "audio" and m.payload[1] == 1]


def repeated(messages: list[MediaMessage], *, times: int) -> list[MediaMessage]:
    """The stream over and over, its time going on."""
    length = messages[-1].timestamp + 40
    return [replace(m, timestamp=m.timestamp + round * length) for round in range(times) for m in messages]


async def send_paced(connection: PublishConnection, messages: list[MediaMessage], *, speed: float = 4.0) -> None:
    """Publish ``messages`` at their own times, ``speed`` times as fast."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for message in messages:
        await asyncio.sleep(begin + message.timestamp / 1000 / speed - loop.time())
        connection.send(message)


@pytest.mark.parametrize("publisher", ["ffmpeg", "PyAV"])
async def test_we_receive_what_others_publish(publisher: str, flv: Path, tmp_path: Path) -> None:
    server = Server()
    async with listening(server) as url:
        argv = [*FFMPEG, "-i", str(flv), "-c", "copy", "-f", "flv", str(url)]
        if publisher == "PyAV":
            pytest.importorskip("av", reason="PyAV is not installed (pip install av)")
            argv = [sys.executable, "-c", PYAV_REMUX, str(flv), str(url)]
        async with running(argv, tmp_path / "publisher.log") as program:
            await program.output()
        await until(lambda: server.named("connection_lost"))
    sent = split_flv(flv)
    assert server.named("publish_requested") == [("live", "cam1?key=secret")]
    assert pictures(server.messages) == pictures(sent)
    assert sounds(server.messages) == sounds(sent)
    assert server.messages[0].payload.startswith(b"\x02\x00\x0aonMetaData")
    assert len(server.named("publish_ended")) == 1
    times = [message.timestamp for message in server.messages if message.kind == "video"]
    assert times == sorted(times)
    assert times[-1] == max(message.timestamp for message in sent if message.kind == "video")


async def test_ffmpeg_publishes_in_chunks_that_need_extended_timestamps(flv: Path, tmp_path: Path) -> None:
    server = Server()
    async with listening(server) as url:
        shifted = [*FFMPEG, "-itsoffset", "16800", "-i", str(flv), "-c", "copy", "-copyts", "-f", "flv", str(url)]
        async with running(shifted, tmp_path / "ffmpeg.log") as program:
            await program.output()
        await until(lambda: server.named("connection_lost"))
    assert pictures(server.messages) == pictures(split_flv(flv))
    assert server.messages[-1].timestamp > 0xFF_FFFF


async def test_ffmpeg_plays_what_we_serve_to_the_end(flv: Path, tmp_path: Path) -> None:
    def serve_file(connection: ServerConnection) -> None:
        connection.accept_play()
        for message in split_flv(flv):
            connection.send(message)
        connection.end_play()

    server = Server()
    server.on_play = serve_file
    async with listening(server) as url:
        argv = [*FFMPEG, "-rtmp_live", "live", "-i", str(url), *HASH_OUTPUT]
        async with running(argv, tmp_path / "player.log") as player:
            assert sorted((await player.output()).split()) == stream_hashes(flv)
    assert server.named("play_requested") == [("live", "cam1?key=secret")]


async def test_ffprobe_understands_what_we_serve(flv: Path, tmp_path: Path) -> None:
    def serve_file(connection: ServerConnection) -> None:
        connection.accept_play()
        for message in split_flv(flv):
            connection.send(message)
        connection.end_play()

    server = Server()
    server.on_play = serve_file
    async with listening(server) as url:
        argv = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name,width", "-of", "csv=p=0", str(url)]
        async with running(argv, tmp_path / "ffprobe.log") as probe:
            assert sorted((await probe.output()).split()) == ["aac", "h264,320"]


async def test_a_refused_ffmpeg_ends_with_an_error(flv: Path, tmp_path: Path) -> None:
    server = Server()
    server.on_publish = lambda c: c.refuse_publish("NetStream.Publish.BadName", "Already publishing", close=True)
    async with listening(server) as url:
        argv = [*FFMPEG, "-i", str(flv), "-c", "copy", "-f", "flv", str(url)]
        async with running(argv, tmp_path / "publisher.log") as program:
            assert await asyncio.wait_for(program.process.wait(), 10) != 0
    assert "Already publishing" in (tmp_path / "publisher.log").read_text()


async def test_ffmpeg_to_us_to_ffmpeg_is_the_same_stream(flv: Path, tmp_path: Path) -> None:
    server = Server()
    async with listening(server) as url:
        # Without -rtmp_live live ffmpeg plays a recording of that name, which is the same to us.
        argv = [*FFMPEG, "-i", str(url), *HASH_OUTPUT]
        async with running(argv, tmp_path / "player.log") as player:
            await until(lambda: server.players, within=10)
            push = [*FFMPEG, "-readrate", "4", "-i", str(flv), "-c", "copy", "-f", "flv", str(url)]
            async with running(push, tmp_path / "publisher.log") as publisher:
                await publisher.output()
            await until(lambda: server.named("publish_ended"))
            for connection in list(server.players):
                connection.end_play()
            assert sorted((await player.output()).split()) == stream_hashes(flv)


async def test_we_publish_to_a_listening_ffmpeg(flv: Path, tmp_path: Path) -> None:
    url = RtmpUrl("127.0.0.1", free_port(), "live", "key")
    client = Client()
    async with running([*FFMPEG, "-listen", "1", "-i", str(url), *HASH_OUTPUT], tmp_path / "sink.log") as sink:
        await until_listening(url.port)
        connection = await publish(url, client)
        await until(lambda: client.named("publish_started"))
        for message in split_flv(flv):
            connection.send(message)
        connection.finish()
        assert sorted((await sink.output()).split()) == stream_hashes(flv)
        await until(lambda: client.lost)
    assert client.calls == [("publish_started",), ("connection_lost", None)]


@needs_nginx
@pytest.mark.parametrize("pipelined", [True, False])
async def test_we_publish_to_nginx_and_we_play_from_it(pipelined: bool, flv: Path, tmp_path: Path) -> None:
    source, viewer = Client(), Client()
    async with nginx(tmp_path) as port:
        url = RtmpUrl("127.0.0.1", port, "live", "cam1")
        player = await play(url, viewer, pipelined=pipelined)
        await until(lambda: viewer.named("play_started"))
        publisher = await publish(url, source, pipelined=pipelined)
        await until(lambda: source.named("publish_started"))
        sent = split_flv(flv)
        await send_paced(publisher, sent)
        await until(lambda: len(pictures(viewer.messages)) == len(pictures(sent)))
        await until(lambda: len(sounds(viewer.messages)) == len(sounds(sent)))
        assert pictures(viewer.messages) == pictures(sent)
        assert sounds(viewer.messages) == sounds(sent)
        publisher.finish()
        player.finish()
        await until(lambda: source.lost and viewer.lost)
    assert source.calls == [("publish_started",), ("connection_lost", None)]


@needs_nginx
async def test_ffmpeg_plays_from_nginx_what_we_publish(flv: Path, tmp_path: Path) -> None:
    client = Client()
    async with nginx(tmp_path) as port:
        url = RtmpUrl("127.0.0.1", port, "live", "cam1")
        listen = [*FFMPEG, "-rtmp_live", "live", "-analyzeduration", "500000", "-i", str(url)]
        count = ["-map", "0:v", "-frames:v", "30", "-f", "framecrc", "-"]
        async with running([*listen, *count], tmp_path / "player.log") as player:
            publisher = await publish(url, client)
            await until(lambda: client.named("publish_started"))
            # nginx tells its players nothing when a stream ends, so it goes on until the player has enough.
            feeding = asyncio.create_task(send_paced(publisher, repeated(split_flv(flv), times=10), speed=1.0))
            lines = (await player.output()).splitlines()
            feeding.cancel()
            publisher.abort()
    assert sum(not line.startswith("#") for line in lines) == 30
    assert (tmp_path / "player.log").read_text() == "", "ffmpeg decodes without a complaint"


@needs_nginx
async def test_nginx_refuses_a_second_publisher_of_a_key_and_keeps_its_connection(tmp_path: Path) -> None:
    first, second, third = Client(), Client(), Client()
    async with nginx(tmp_path) as port:
        url = RtmpUrl("127.0.0.1", port, "live", "cam1")
        holder = await publish(url, first)
        await until(lambda: first.named("publish_started"))
        refused = await publish(url, second)
        await until(lambda: second.calls)
        await asyncio.sleep(0.1)
        assert second.calls == [("publish_refused", "NetStream.Publish.BadName", "Already publishing")]
        with pytest.raises(ConnectionError, match="refused"):
            refused.send(MediaMessage("video", 0, b"\x17\x01"))
        # A reset frees the key at once; that is what a publisher who has a new connection does with its old one.
        holder.abort()
        await until(lambda: first.lost)
        successor = await publish(url, third)
        await until(lambda: third.named("publish_started"))
        for connection in (refused, successor):
            connection.finish()
        await until(lambda: second.lost and third.lost)


@needs_nginx
async def test_nginx_pushes_to_us(flv: Path, tmp_path: Path) -> None:
    server, client = Server(), Client()
    async with listening(server) as ours, nginx(tmp_path, push_to=ours.port) as port:
        publisher = await publish(RtmpUrl("127.0.0.1", port, "relay", "cam1"), client)
        await until(lambda: server.named("publish_requested"), within=10)
        sent = split_flv(flv)
        await send_paced(publisher, sent)
        await until(lambda: len(pictures(server.messages)) == len(pictures(sent)))
        assert pictures(server.messages) == pictures(sent)
        publisher.finish()
        await until(lambda: server.named("connection_lost"), within=10)
    assert server.named("publish_requested") == [("live", "cam1")]
