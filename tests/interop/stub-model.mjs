// A model with one idea, so that tests can run agents without one: it calls the first tool whose name ends in
// `echo`, and once it has the tool's result it says so, quoting it. Where the agent only names that tool and holds
// its schema back, it asks for the schema first.
//
//   stub-model.mjs --record FILE
//
// It listens on a free port of loopback, prints `listening on http://127.0.0.1:PORT`, and speaks, streamed or
// whole: POST …/messages (Anthropic Messages), …/responses (OpenAI Responses), …/chat/completions (OpenAI Chat).
// Each request adds one line to FILE, the same for all three:
//   {"path":"/v1/messages","offered":["the tools"],"named":["the tools held back"],
//    "results":["what tools said"],"answer":"call NAME" or "text"}
// A tool in a namespace is noted as NAMESPACE/NAME. A path it does not know is answered 404 and noted with
// "answer":"404". Bad usage exits 2.

import { appendFileSync } from "node:fs";
import { createServer } from "node:http";
import process from "node:process";

const TOOL = /(^|_)echo$/;
// The tool by which an agent hands out schemas that it held back, and the id of calls of it.
const SEARCH = "ToolSearch";
const SEARCH_CALL = "toolu_search";
const MODEL = "stub";
// A word that no prompt of the tests contains.
const WORD = "hello";

/** The text of content that is a string, or a list of blocks of which some have one. */
function textOf(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return JSON.stringify(content ?? "");
  return content.map((block) => block.text ?? "").join("\n");
}

/** Arguments that satisfy a schema of plain properties: the required ones, or all where none are. */
function argumentsFor(schema) {
  const samples = { string: WORD, integer: 1, number: 1, boolean: true, array: [], object: {} };
  const properties = schema?.properties ?? {};
  const names = schema?.required?.length ? schema.required : Object.keys(properties);
  return JSON.stringify(Object.fromEntries(names.map((name) => [name, samples[properties[name]?.type] ?? WORD])));
}

/** The tools that an agent names in its messages, one a line, and holds back. */
function heldBack(messages) {
  const text = messages.map((message) => textOf(message.content)).join("\n");
  return text.split("\n").filter((line) => /^mcp__\w+$/.test(line));
}

/** The three wire formats. `events` gives the stream of an answer, `whole` the answer in one piece. */
const WIRES = {
  messages: {
    tools: (body) => (body.tools ?? []).map((tool) => ({ name: tool.name, schema: tool.input_schema })),
    named: (body) => (body.tools?.some((tool) => tool.name === SEARCH) ? heldBack(body.messages) : []),
    results: (body) =>
      (body.messages ?? [])
        .flatMap((message) => (Array.isArray(message.content) ? message.content : []))
        .filter((block) => block.type === "tool_result" && block.tool_use_id !== SEARCH_CALL)
        .map((block) => textOf(block.content)),
    whole: (answer) => ({
      id: "msg_stub",
      type: "message",
      role: "assistant",
      model: MODEL,
      content: [
        answer.text === undefined
          ? { type: "tool_use", id: answer.id ?? "toolu_stub", name: answer.name, input: JSON.parse(answer.arguments) }
          : { type: "text", text: answer.text },
      ],
      stop_reason: answer.text === undefined ? "tool_use" : "end_turn",
      stop_sequence: null,
      usage: { input_tokens: 1, output_tokens: 1 },
    }),
    events(answer) {
      const whole = this.whole(answer);
      const [block] = whole.content;
      const [empty, delta] =
        block.type === "text"
          ? [{ ...block, text: "" }, { type: "text_delta", text: block.text }]
          : [{ ...block, input: {} }, { type: "input_json_delta", partial_json: answer.arguments }];
      return [
        { type: "message_start", message: { ...whole, content: [], stop_reason: null } },
        { type: "content_block_start", index: 0, content_block: empty },
        { type: "content_block_delta", index: 0, delta },
        { type: "content_block_stop", index: 0 },
        {
          type: "message_delta",
          delta: { stop_reason: whole.stop_reason, stop_sequence: null },
          usage: whole.usage,
        },
        { type: "message_stop" },
      ];
    },
  },

  responses: {
    // Tools may stand in namespaces, and then a call names both.
    tools: (body) =>
      (body.tools ?? []).flatMap((tool) =>
        tool.type === "namespace"
          ? tool.tools.map((inner) => ({ ...described(inner), namespace: tool.name }))
          : [described(tool)],
      ),
    results: (body) =>
      (Array.isArray(body.input) ? body.input : [])
        .filter((item) => item.type === "function_call_output")
        .map((item) => textOf(item.output?.content ?? item.output)),
    whole: (answer) => ({
      id: "resp_stub",
      object: "response",
      created_at: 0,
      status: "completed",
      model: MODEL,
      output: [
        answer.text === undefined
          ? {
              type: "function_call",
              id: "fc_stub",
              call_id: "call_stub",
              status: "completed",
              name: answer.name,
              ...(answer.namespace === undefined ? {} : { namespace: answer.namespace }),
              arguments: answer.arguments,
            }
          : {
              type: "message",
              id: "msg_stub",
              status: "completed",
              role: "assistant",
              content: [{ type: "output_text", text: answer.text, annotations: [] }],
            },
      ],
      usage: {
        input_tokens: 1,
        input_tokens_details: { cached_tokens: 0 },
        output_tokens: 1,
        output_tokens_details: { reasoning_tokens: 0 },
        total_tokens: 2,
      },
    }),
    events(answer) {
      const response = this.whole(answer);
      const [item] = response.output;
      const created = { ...response, status: "in_progress", output: [], usage: null };
      return [
        { type: "response.created", sequence_number: 0, response: created },
        { type: "response.output_item.added", sequence_number: 1, output_index: 0, item },
        { type: "response.output_item.done", sequence_number: 2, output_index: 0, item },
        { type: "response.completed", sequence_number: 3, response },
      ];
    },
  },

  "chat/completions": {
    tools: (body) => (body.tools ?? []).map((tool) => described(tool.function)),
    results: (body) =>
      (body.messages ?? []).filter((message) => message.role === "tool").map((message) => textOf(message.content)),
    whole: (answer) => ({
      id: "chatcmpl-stub",
      object: "chat.completion",
      created: 0,
      model: MODEL,
      choices: [
        {
          index: 0,
          message: { role: "assistant", ...said(answer) },
          finish_reason: answer.text === undefined ? "tool_calls" : "stop",
        },
      ],
      usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 },
    }),
    events(answer) {
      const { choices, usage, ...head } = this.whole(answer);
      const [{ message, finish_reason }] = choices;
      const chunk = (delta, reason) => ({
        ...head,
        object: "chat.completion.chunk",
        choices: [{ index: 0, delta, finish_reason: reason }],
      });
      return [chunk(message, null), { ...chunk({}, finish_reason), usage }];
    },
    last: "data: [DONE]\n\n",
  },
};

function described(tool) {
  return { name: tool.name ?? tool.type, schema: tool.parameters };
}

/** What a chat message holds besides its role. */
function said(answer) {
  if (answer.text !== undefined) return { content: answer.text };
  const call = { name: answer.name, arguments: answer.arguments };
  return { content: null, tool_calls: [{ index: 0, id: "call_stub", type: "function", function: call }] };
}

/** What the model says to a request that offers and names these tools and carries these results. */
function answerTo(tools, named, results) {
  if (results.length > 0) return { text: `The tool said: ${results.at(-1)}` };
  const tool = tools.find((tool) => TOOL.test(tool.name));
  if (tool !== undefined) {
    return { name: tool.name, namespace: tool.namespace, arguments: argumentsFor(tool.schema) };
  }
  const name = named.find((name) => TOOL.test(name));
  // Agents ask for a title, too, and offer no tools then.
  if (name === undefined) return { text: "A talk" };
  const query = { query: `select:${name}`, max_results: 1 };
  return { name: SEARCH, id: SEARCH_CALL, arguments: JSON.stringify(query) };
}

function send(response, wire, answer, streamed) {
  if (!streamed) {
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify(wire.whole(answer)));
    return;
  }
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  for (const event of wire.events(answer)) {
    // The type of a chat chunk is no event name; the other two name their events by it.
    if (event.type !== undefined) response.write(`event: ${event.type}\n`);
    response.write(`data: ${JSON.stringify(event)}\n\n`);
  }
  response.end(wire.last);
}

async function handle(request, response, note) {
  const { pathname: path } = new URL(request.url, "http://stub");
  let text = "";
  for await (const part of request.setEncoding("utf8")) text += part;
  const wire = request.method === "POST" ? Object.keys(WIRES).find((end) => path.endsWith(`/${end}`)) : undefined;
  if (wire === undefined) {
    note({ path, offered: [], named: [], results: [], answer: "404" });
    response.writeHead(404, { "content-type": "application/json" });
    response.end('{"type":"error","error":{"type":"not_found_error","message":"not here"}}');
    return;
  }
  const body = JSON.parse(text);
  const [tools, results] = [WIRES[wire].tools(body), WIRES[wire].results(body)];
  const held = WIRES[wire].named?.(body) ?? [];
  const answer = answerTo(tools, held, results);
  const full = ({ namespace, name }) => (namespace === undefined ? name : `${namespace}/${name}`);
  note({
    path,
    offered: tools.map(full),
    named: held,
    results,
    answer: answer.text === undefined ? `call ${full(answer)}` : "text",
  });
  send(response, WIRES[wire], answer, body.stream === true);
}

const [flag, record, ...rest] = process.argv.slice(2);
if (flag !== "--record" || record === undefined || rest.length > 0) {
  process.stderr.write("usage: stub-model.mjs --record FILE\n");
  process.exit(2);
}
const note = (entry) => appendFileSync(record, `${JSON.stringify(entry)}\n`);
const server = createServer((request, response) => {
  handle(request, response, note).catch((error) => {
    process.stderr.write(`${request.method} ${request.url}: ${error.stack}\n`);
    response.destroy();
  });
});
server.listen(0, "127.0.0.1", () => {
  process.stdout.write(`listening on http://127.0.0.1:${server.address().port}\n`);
});
