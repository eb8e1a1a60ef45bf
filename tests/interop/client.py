"""A caller of MCP tools built on the official Python SDK, so that tests meet a client we did not write.

One connection, the operations in the order given, one JSON line each on standard output:
  {"tools":[names]}  {"result":...}  {"error":"...","code":N}  and with --progress  {"progress":{...}}
A refusal by the peer or a passed timeout is an answer and exits 0. A failed connection, or a reply that the
SDK cannot read, exits 1 with a message on standard error; bad usage exits 2.
"""

import argparse
import asyncio
import json
import sys
from contextlib import AsyncExitStack
from typing import Any

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CONNECTION_CLOSED, CallToolResult, Implementation

MODERN = "2026-07-28"
IDENTITY = Implementation(name="seawall-interop", version="1.0.0")


class WrongEra(Exception):
    """The server answered, but not in the era that was asked for."""


class AddList(argparse.Action):
    """Appends a listing, keeping the order in which operations were given."""

    def __call__(self, parser: Any, settings: Any, values: Any, option_string: str | None = None) -> None:
        settings.operations.append({"list": True})


class AddCall(argparse.Action):
    """Appends a call without arguments."""

    def __call__(self, parser: Any, settings: Any, values: Any, option_string: str | None = None) -> None:
        settings.operations.append({"name": values, "arguments": {}})


class SetCallArguments(argparse.Action):
    """Gives the last call its arguments."""

    def __call__(self, parser: Any, settings: Any, values: Any, option_string: str | None = None) -> None:
        if not settings.operations or "name" not in settings.operations[-1]:
            parser.error("--arguments follows a --call")
        try:
            given = json.loads(values)
        except ValueError as error:
            parser.error(f"--arguments is not JSON: {error}")
        if not isinstance(given, dict):
            parser.error("--arguments is a JSON object")
        settings.operations[-1]["arguments"] = given


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.set_defaults(operations=[])
    parser.add_argument("--era", choices=["legacy", "modern"], required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bearer")
    parser.add_argument("--timeout-ms", type=int, default=60_000)
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--list", nargs=0, action=AddList, help="list the tools")
    parser.add_argument("--call", metavar="NAME", action=AddCall, help="call a tool")
    parser.add_argument("--arguments", metavar="JSON", action=SetCallArguments, help="for the last --call")
    settings = parser.parse_args()
    if settings.timeout_ms <= 0:
        parser.error("--timeout-ms is a whole number above zero")
    if not settings.operations:
        parser.error("nothing to do: give --list or --call")
    return settings


class Refusals:
    """Notes HTTP refusals that carry no JSON-RPC error.

    The SDK turns these into errors that look like the peer's own answer, so they have to be told apart here.
    """

    def __init__(self) -> None:
        self.last: str | None = None

    async def note(self, response: httpx2.Response) -> None:
        if response.request.method != "POST":
            return
        self.last = None
        if response.status_code < 400:
            return
        try:
            body = json.loads(await response.aread())
        except ValueError:
            body = None
        if not isinstance(body, dict) or "jsonrpc" not in body:
            self.last = f"HTTP {response.status_code} {response.reason_phrase}"


def print_line(line: dict[str, Any]) -> None:
    print(json.dumps(line, ensure_ascii=False, separators=(",", ":")), flush=True)


async def print_progress(progress: float, total: float | None, message: str | None) -> None:
    fields = {"progress": progress, "total": total, "message": message}
    print_line({"progress": {name: value for name, value in fields.items() if value is not None}})


async def list_tools(client: Client) -> list[str]:
    names: list[str] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        names.extend(tool.name for tool in page.tools)
        cursor = page.next_cursor
        if cursor is None:
            return names


async def perform(client: Client, operation: dict[str, Any], settings: argparse.Namespace) -> dict[str, Any]:
    if "list" in operation:
        return {"tools": await list_tools(client)}
    result: CallToolResult = await client.call_tool(
        operation["name"],
        operation["arguments"],
        progress_callback=print_progress if settings.progress else None,
    )
    # Only what came over the wire: the model fills in members that the peer did not send.
    return {"result": result.model_dump(mode="json", by_alias=True, exclude_unset=True)}


async def run(settings: argparse.Namespace, refusals: Refusals) -> None:
    headers = {"Authorization": f"Bearer {settings.bearer}"} if settings.bearer else {}
    seconds = settings.timeout_ms / 1000
    # The SDK bounds each request; HTTP reads stay unbounded so that they do not end one earlier.
    web = httpx2.AsyncClient(
        headers=headers,
        timeout=httpx2.Timeout(seconds, read=None),
        event_hooks={"response": [refusals.note]},
    )
    async with web:
        client = Client(
            streamable_http_client(settings.url, http_client=web),
            # "auto" goes through server/discover; a version given outright would skip it.
            mode="auto" if settings.era == "modern" else "legacy",
            read_timeout_seconds=seconds,
            client_info=IDENTITY,
            # A cached list would hide what the server says now.
            cache=None,
        )
        async with AsyncExitStack() as stack:
            # The SDK's probe has a longer limit of its own.
            try:
                async with asyncio.timeout(seconds):
                    await stack.enter_async_context(client)
            except TimeoutError as error:
                raise TimeoutError(f"no connection within {settings.timeout_ms} ms") from error
            if settings.era == "modern" and client.protocol_version != MODERN:
                raise WrongEra(f"the server fell back to {client.protocol_version}")
            for operation in settings.operations:
                try:
                    print_line(await perform(client, operation, settings))
                except MCPError as error:
                    if refusals.last is not None or error.code == CONNECTION_CLOSED:
                        raise
                    print_line({"error": error.message, "code": error.code})


def describe(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(describe(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}"


def main() -> int:
    settings = read_arguments()
    refusals = Refusals()
    try:
        asyncio.run(run(settings, refusals))
    except Exception as error:
        refused = f"{refusals.last}: " if refusals.last is not None else ""
        print(f"{refused}{describe(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
