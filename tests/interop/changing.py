"""A server over stdin and stdout whose tools are what a file says at the moment: a JSON array of declarations.

Each call is answered with the name of its tool. A call of `announce` says that the list has changed.
"""

import json
import sys

INTRODUCTION = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {"listChanged": True}},
    "serverInfo": {"name": "changing", "version": "1"},
}


def send(**members):
    print(json.dumps({"jsonrpc": "2.0", **members}), flush=True)


def result(method, params):
    if method == "initialize":
        return INTRODUCTION
    if method == "ping":
        return {}
    if method == "tools/list":
        with open(sys.argv[1], encoding="utf-8") as file:
            return {"tools": json.load(file)}
    if method == "tools/call":
        if params["name"] == "announce":
            send(method="notifications/tools/list_changed")
        return {"content": [{"type": "text", "text": params["name"]}]}
    return None


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        continue
    answer = result(message["method"], message.get("params", {}))
    if answer is None:
        send(id=message["id"], error={"code": -32601, "message": "Method not found"})
    else:
        send(id=message["id"], result=answer)
