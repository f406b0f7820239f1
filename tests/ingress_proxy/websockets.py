"""A client and a server of `websockets`, with the proxy between them: ADDRESS SANDBOX."""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve


async def echo(websocket):
    headers = websocket.request.headers
    assert headers["authorization"] == "Bearer t"
    assert headers["x-execd-access-token"] == "e"
    async for message in websocket:
        await websocket.send(message)


async def main(address, sandbox):
    async with serve(echo, "127.0.0.1", 0, subprotocols=["b", "c"]) as server:
        port = server.sockets[0].getsockname()[1]
        headers = {
            "OpenSandbox-Ingress-To": f"{sandbox}-{port}",
            "Authorization": "Bearer t",
            "X-EXECD-ACCESS-TOKEN": "e",
        }
        url = f"ws://{address}/ws"
        async with connect(
            url, subprotocols=["a", "b"], additional_headers=headers
        ) as websocket:
            assert websocket.subprotocol == "b", websocket.subprotocol
            assert websocket.protocol.extensions, "the compression was not agreed on"
            await (await websocket.ping())
            for message in ["hello", b"\x00\xff" * 300_000, ""]:
                await websocket.send(message)
                assert await websocket.recv() == message
            await websocket.close(4321, "enough")
        assert websocket.close_code == 4321, websocket.close_code
        print("fine")


asyncio.run(main(sys.argv[1], sys.argv[2]))
