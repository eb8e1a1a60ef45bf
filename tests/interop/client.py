"""A caller of MCP tools built on the official Python SDK, so that tests meet a client we did not write.

One connection, the operations in the order given, one JSON line each on standard output:
  {"tools":[names]}  {"result":...}  {"error":"...","code":N}  and with --progress  {"progress":{...}}
--answer and --sample answer the server's questions, which print as  {"asked":"the method"}
--cancel-on-progress takes each call back once it has told of progress:  {"cancelled":true}
--until-changed calls a tool until the server has told that its tools changed:  {"changed":"tools"}
--until-updated subscribes to a resource, calls the tool that --by names until the server has told that the
resource changed, and takes the subscription back:  {"updated":"the URI"}
A refusal by the peer or a passed timeout is an answer and exits 0. A failed connection, or a reply that the
SDK cannot read, exits 1 with a message on standard error; bad usage exits 2.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ResourceUpdated, ServerEvent, Subscription, ToolsListChanged
from mcp.types import (
    CONNECTION_CLOSED,
    CallToolResult,
    CreateMessageResult,
    ElicitResult,
    Implementation,
    ResourceUpdatedNotification,
    TextContent,
    ToolListChangedNotification,
)

MODERN = "2026-07-28"
IDENTITY = Implementation(name="seawall-interop", version="1.0.0")
# The pause between two calls of --until-changed or --until-updated: the server may need a moment to tell.
AGAIN_SECONDS = 0.2


class WrongEra(Exception):
    """The server answered, but not in the era that was asked for."""


class NotGranted(Exception):
    """The server does not tell of what was asked for."""


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
        settings.operations[-1]["arguments"] = read_object(parser, option_string, values)


class AddUntilChanged(argparse.Action):
    """Appends calls of a tool that last until the tools have changed."""

    def __call__(self, parser: Any, settings: Any, values: Any, option_string: str | None = None) -> None:
        settings.operations.append({"until_changed": values})


class AddUntilUpdated(argparse.Action):
    """Appends calls that last until a resource has changed."""

    def __call__(self, parser: Any, settings: Any, values: Any, option_string: str | None = None) -> None:
        settings.operations.append({"until_updated": values})


class SetBy(argparse.Action):
    """Names the tool that the last wait for a resource calls."""

    def __call__(self, parser: Any, settings: Any, values: Any, option_string: str | None = None) -> None:
        if not settings.operations or "until_updated" not in settings.operations[-1]:
            parser.error("--by follows an --until-updated")
        settings.operations[-1]["by"] = values


class SetAnswer(argparse.Action):
    """Sets the content that accepts every form."""

    def __call__(self, parser: Any, settings: Any, values: Any, option_string: str | None = None) -> None:
        settings.answer = read_object(parser, option_string, values)


def read_object(parser: Any, flag: str | None, text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except ValueError as error:
        parser.error(f"{flag} is not JSON: {error}")
    if not isinstance(given, dict):
        parser.error(f"{flag} is a JSON object")
    return given


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.set_defaults(operations=[])
    parser.add_argument("--era", choices=["legacy", "modern"], required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bearer")
    parser.add_argument("--timeout-ms", type=int, default=60_000)
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--answer", metavar="JSON", action=SetAnswer, help="fill in every form with this")
    parser.add_argument("--sample", metavar="TEXT", help="answer every prompt for a model with this")
    parser.add_argument("--cancel-on-progress", action="store_true", help="take back calls that progress")
    parser.add_argument("--until-changed", metavar="NAME", action=AddUntilChanged, help="call until told")
    parser.add_argument("--until-updated", metavar="URI", action=AddUntilUpdated, help="subscribe until told")
    parser.add_argument("--by", metavar="NAME", action=SetBy, help="the tool that --until-updated calls")
    parser.add_argument("--list", nargs=0, action=AddList, help="list the tools")
    parser.add_argument("--call", metavar="NAME", action=AddCall, help="call a tool")
    parser.add_argument("--arguments", metavar="JSON", action=SetCallArguments, help="for the last --call")
    settings = parser.parse_args()
    if settings.timeout_ms <= 0:
        parser.error("--timeout-ms is a whole number above zero")
    if not settings.operations:
        parser.error("nothing to do: give --list or --call")
    if any("until_updated" in operation and "by" not in operation for operation in settings.operations):
        parser.error("--until-updated needs a --by")
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


class Manners:
    """What the client can be asked and what it answers, and what it was told of changes."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings = settings
        self.told: set[ServerEvent] = set()

    async def fill_in(self, _context: Any, _params: Any) -> ElicitResult:
        print_line({"asked": "elicitation/create"})
        return ElicitResult(action="accept", content=self.settings.answer)

    async def sample(self, _context: Any, _params: Any) -> CreateMessageResult:
        print_line({"asked": "sampling/createMessage"})
        content = TextContent(type="text", text=self.settings.sample)
        return CreateMessageResult(role="assistant", content=content, model="none", stop_reason="endTurn")

    async def hear(self, message: Any) -> None:
        """Takes what a legacy server tells on the session's stream."""
        if isinstance(message, ToolListChangedNotification):
            self.told.add(ToolsListChanged())
        elif isinstance(message, ResourceUpdatedNotification):
            self.told.add(ResourceUpdated(message.params.uri))

    def for_client(self) -> dict[str, Any]:
        """The callbacks. The SDK declares a capability for each that is there."""
        return {
            "elicitation_callback": self.fill_in if self.settings.answer is not None else None,
            "sampling_callback": self.sample if self.settings.sample is not None else None,
            # In the modern era the stream of changes is read instead.
            "message_handler": self.hear if self.settings.era == "legacy" else None,
        }


async def call_until(event: ServerEvent, client: Client, name: str, manners: Manners) -> None:
    """Calls a tool until the server has told of a change, which it may do at any time."""
    async with asyncio.timeout(manners.settings.timeout_ms / 1000):
        while event not in manners.told:
            await client.call_tool(name, {})
            await asyncio.sleep(AGAIN_SECONDS)


async def call_until_changed(client: Client, name: str, manners: Manners) -> dict[str, Any]:
    """The modern era has to be asked for changes; the legacy one tells of them on the session's stream."""
    async with AsyncExitStack() as stack:
        if manners.settings.era == "modern":
            await stack.enter_async_context(listening(client, manners, tools_list_changed=True))
        await call_until(ToolsListChanged(), client, name, manners)
    return {"changed": "tools"}


async def call_until_updated(client: Client, uri: str, name: str, manners: Manners) -> dict[str, Any]:
    """The modern era names the resource on a stream of changes; the legacy one subscribes by a request."""
    manners.told.discard(ResourceUpdated(uri))
    if manners.settings.era == "modern":
        async with listening(client, manners, resource_subscriptions=[uri]) as changes:
            if uri not in (changes.honored.resource_subscriptions or []):
                raise NotGranted(f"the server does not tell of {uri}")
            await call_until(ResourceUpdated(uri), client, name, manners)
    else:
        await client.subscribe_resource(uri)
        await call_until(ResourceUpdated(uri), client, name, manners)
        await client.unsubscribe_resource(uri)
    return {"updated": uri}


@asynccontextmanager
async def listening(client: Client, manners: Manners, **wanted: Any) -> AsyncIterator[Subscription]:
    """A stream of changes that is followed for as long as it is open."""
    async with client.listen(**wanted) as changes:
        following = asyncio.create_task(follow(changes, manners))
        try:
            yield changes
        finally:
            following.cancel()


async def follow(changes: Subscription, manners: Manners) -> None:
    async for event in changes:
        manners.told.add(event)


async def call_until_progress(client: Client, operation: dict[str, Any], show: bool) -> dict[str, Any]:
    told = asyncio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        if show:
            await print_progress(progress, total, message)
        told.set()

    call = asyncio.create_task(
        client.call_tool(operation["name"], operation["arguments"], progress_callback=note)
    )
    waiting = asyncio.create_task(told.wait())
    await asyncio.wait([call, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if call.done():
        return {"result": call.result().model_dump(mode="json", by_alias=True, exclude_unset=True)}
    # The SDK takes back what its caller abandons.
    call.cancel()
    await asyncio.wait([call])
    return {"cancelled": True}


async def perform(client: Client, operation: dict[str, Any], manners: Manners) -> dict[str, Any]:
    settings = manners.settings
    if "list" in operation:
        return {"tools": await list_tools(client)}
    if "until_changed" in operation:
        return await call_until_changed(client, operation["until_changed"], manners)
    if "until_updated" in operation:
        return await call_until_updated(client, operation["until_updated"], operation["by"], manners)
    if settings.cancel_on_progress:
        return await call_until_progress(client, operation, settings.progress)
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
    manners = Manners(settings)
    async with web:
        client = Client(
            streamable_http_client(settings.url, http_client=web),
            # "auto" goes through server/discover; a version given outright would skip it.
            mode="auto" if settings.era == "modern" else "legacy",
            read_timeout_seconds=seconds,
            client_info=IDENTITY,
            # A cached list would hide what the server says now.
            cache=None,
            **manners.for_client(),
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
                    print_line(await perform(client, operation, manners))
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
