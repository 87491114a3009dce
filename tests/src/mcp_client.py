"""Drives the official MCP client: an order per line on standard input, what came of it per line on standard output.

Started as `mcp_client.py MODE URL KEY` for streamable HTTP, or `mcp_client.py MODE stdio COMMAND ARGUMENT…`, whose environment is
this process's; MODE is how the client settles on a version of the protocol: `auto` or `legacy`. Orders are `{"list": true}` and
`{"call": name, "arguments": {…}}`. The client checks each structured result against the tool's schema by itself.
"""

import asyncio
import json
import os
import sys

import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client


def tell(answer):
    print(json.dumps(answer), flush=True)


async def follow(client, order):
    if "list" in order:
        listed = await client.list_tools()
        return {"tools": [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed.tools]}
    result = await client.call_tool(order["call"], order["arguments"])
    return {
        "is_error": bool(result.is_error),
        "structured": result.structured_content,
        "texts": [block.text for block in result.content],
        "meta": result.meta,
    }


async def talk(client):
    tell({"server": client.server_info.name, "instructions": client.instructions, "version": client.protocol_version})
    lines = asyncio.get_running_loop()
    while line := await lines.run_in_executor(None, sys.stdin.readline):
        try:
            tell(await follow(client, json.loads(line)))
        except MCPError as error:
            tell({"protocol_error": {"code": error.error.code, "message": error.error.message}})


async def main(mode, where, *rest):
    if where == "stdio":
        command, *arguments = rest
        server = StdioServerParameters(command=command, args=arguments, env=dict(os.environ))
        async with Client(server, mode=mode) as client:
            await talk(client)
    else:
        headers = {"authorization": f"Bearer {rest[0]}"}
        async with httpx2.AsyncClient(headers=headers, trust_env=False, timeout=60) as http:
            async with Client(streamable_http_client(where, http_client=http), mode=mode) as client:
                await talk(client)


asyncio.run(main(*sys.argv[1:]))
