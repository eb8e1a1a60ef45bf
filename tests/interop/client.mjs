// A caller of MCP tools built on the official TypeScript SDKs, so that tests meet a client we did not write.
//
// One connection, the operations in the order given, one JSON line each on standard output:
//   {"tools":[names]}  {"result":...}  {"error":"...","code":N}  and with --progress  {"progress":{...}}
// --answer and --sample answer the server's questions, which print as  {"asked":"the method"}
// --cancel-on-progress takes each call back once it has told of progress:  {"cancelled":true}
// --until-changed calls a tool until the server has told that its tools changed:  {"changed":"tools"}
// --until-updated subscribes to a resource, calls the tool that --by names until the server has told that the
// resource changed, and takes the subscription back:  {"updated":"the URI"}
// A refusal by the peer or a passed timeout is an answer and exits 0. A failed connection, or a reply that
// the SDK cannot read, exits 1 with a message on standard error; bad usage exits 2.

import { createRequire } from "node:module";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";

const USAGE =
  "usage: client.mjs --sdk v1|v2 --era legacy|modern --url URL [--bearer TOKEN]\n" +
  "                  [--timeout-ms N] [--progress] [--answer JSON] [--sample TEXT] [--cancel-on-progress]\n" +
  "                  { --list | --call NAME [--arguments JSON] | --until-changed NAME |\n" +
  "                    --until-updated URI --by NAME }...";
const MODERN = "2026-07-28";
const IDENTITY = { name: "seawall-interop", version: "1.0.0" };
// The pause between two calls of --until-changed or --until-updated: the server may need a moment to tell.
const AGAIN_MS = 200;

// `require` rather than `import`: only it honours NODE_PATH, so the packages may live outside this folder.
const load = createRequire(import.meta.url);

class UsageError extends Error {}

function readArguments(words) {
  const settings = { timeout: 60_000, progress: false, operations: [] };
  const rest = [...words];
  const value = (flag) => {
    if (rest.length === 0) throw new UsageError(`${flag} needs a value`);
    return rest.shift();
  };
  const oneOf = (flag, allowed) => {
    const given = value(flag);
    if (!allowed.includes(given)) throw new UsageError(`${flag} is ${allowed.join(" or ")}, not ${given}`);
    return given;
  };
  while (rest.length > 0) {
    const flag = rest.shift();
    switch (flag) {
      case "--sdk":
        settings.sdk = oneOf(flag, ["v1", "v2"]);
        break;
      case "--era":
        settings.era = oneOf(flag, ["legacy", "modern"]);
        break;
      case "--url": {
        const given = value(flag);
        if (!URL.canParse(given)) throw new UsageError(`--url is not a URL: ${given}`);
        settings.url = new URL(given);
        break;
      }
      case "--bearer":
        settings.bearer = value(flag);
        break;
      case "--timeout-ms":
        settings.timeout = Number(value(flag));
        if (!Number.isInteger(settings.timeout) || settings.timeout <= 0) {
          throw new UsageError("--timeout-ms is a whole number above zero");
        }
        break;
      case "--progress":
        settings.progress = true;
        break;
      case "--answer":
        settings.answer = readObject(flag, value(flag));
        break;
      case "--sample":
        settings.sample = value(flag);
        break;
      case "--cancel-on-progress":
        settings.cancel = true;
        break;
      case "--until-changed":
        settings.operations.push({ untilChanged: value(flag) });
        break;
      case "--until-updated":
        settings.operations.push({ untilUpdated: value(flag) });
        break;
      case "--by": {
        const last = settings.operations.at(-1);
        if (last?.untilUpdated === undefined) throw new UsageError("--by follows an --until-updated");
        last.by = value(flag);
        break;
      }
      case "--list":
        settings.operations.push({ list: true });
        break;
      case "--call":
        settings.operations.push({ name: value(flag), arguments: {} });
        break;
      case "--arguments": {
        const last = settings.operations.at(-1);
        if (last?.name === undefined) throw new UsageError("--arguments follows a --call");
        last.arguments = readObject(flag, value(flag));
        break;
      }
      default:
        throw new UsageError(`unknown option ${flag}`);
    }
  }
  for (const needed of ["sdk", "era", "url"]) {
    if (settings[needed] === undefined) throw new UsageError(`--${needed} is missing`);
  }
  if (settings.sdk === "v1" && settings.era === "modern") {
    throw new UsageError("the v1 SDK speaks only the legacy era");
  }
  if (settings.operations.length === 0) throw new UsageError("nothing to do: give --list or --call");
  if (settings.operations.some(({ untilUpdated, by }) => untilUpdated !== undefined && by === undefined)) {
    throw new UsageError("--until-updated needs a --by");
  }
  return settings;
}

function readObject(flag, text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UsageError(`${flag} is not JSON: ${error.message}`);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new UsageError(`${flag} is a JSON object`);
  }
  return value;
}

// What the client can be asked, by method: how it declares it, and what it answers.
function manners(settings) {
  const capabilities = {};
  const answers = {};
  if (settings.answer !== undefined) {
    capabilities.elicitation = { form: {} };
    answers["elicitation/create"] = { action: "accept", content: settings.answer };
  }
  if (settings.sample !== undefined) {
    capabilities.sampling = {};
    const content = { type: "text", text: settings.sample };
    answers["sampling/createMessage"] = { role: "assistant", content, model: "none", stopReason: "endTurn" };
  }
  const watches = settings.operations.some((operation) => operation.untilChanged !== undefined);
  const tools = { autoRefresh: false, debounceMs: 0, onChanged: () => (settings.changed = true) };
  const options = { capabilities, ...(watches ? { listChanged: { tools } } : {}) };
  const answer = (method) => () => {
    print({ asked: method });
    return answers[method];
  };
  return { options, questions: Object.keys(answers).map((method) => [method, answer(method)]) };
}

// Subscribes to a resource by a request in the session; gives what takes the subscription back.
async function subscribe(client, uri, options) {
  await client.subscribeResource({ uri }, options);
  return () => client.unsubscribeResource({ uri }, options);
}

// Subscribes to a resource on a stream of changes, which is closed to take that back.
async function listen(client, uri, options) {
  const subscription = await client.listen({ resourceSubscriptions: [uri] }, options);
  const granted = subscription.honoredFilter.resourceSubscriptions ?? [];
  if (!granted.includes(uri)) throw new Error(`the server does not tell of ${uri}`);
  return () => subscription.close();
}

// Each SDK is reduced to what differs: how an era is asked for, how a resource is subscribed to, and which
// errors are answers.

function legacyOnlySdk() {
  const { Client } = load("@modelcontextprotocol/sdk/client/index.js");
  const { StreamableHTTPClientTransport } = load("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const types = load("@modelcontextprotocol/sdk/types.js");
  const { ErrorCode, McpError } = types;
  const schemas = {
    "elicitation/create": types.ElicitRequestSchema,
    "sampling/createMessage": types.CreateMessageRequestSchema,
  };
  return {
    Transport: StreamableHTTPClientTransport,
    client: (options) => new Client(IDENTITY, options),
    answer: (client, method, answer) => client.setRequestHandler(schemas[method], answer),
    onUpdated: (client, told) => client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, told),
    watch: subscribe,
    // The SDK gives a lost connection the shape of a peer's error, with this code and text.
    isAnswer: (error) =>
      error instanceof McpError &&
      !(error.code === ErrorCode.ConnectionClosed && error.message.endsWith("Connection closed")),
    list: async (client, options) => {
      const tools = [];
      let cursor;
      do {
        const page = await client.listTools(cursor === undefined ? {} : { cursor }, options);
        tools.push(...page.tools);
        cursor = page.nextCursor;
      } while (cursor !== undefined);
      return tools;
    },
    call: (client, params, options) => client.callTool(params, undefined, options),
  };
}

function bothErasSdk(era) {
  const { Client, ProtocolError, SdkError, SdkErrorCode, StreamableHTTPClientTransport } = load(
    "@modelcontextprotocol/client",
  );
  // A pin goes through server/discover and never falls back, so a legacy peer cannot pass for a modern one.
  const mode = era === "modern" ? { pin: MODERN } : "legacy";
  return {
    Transport: StreamableHTTPClientTransport,
    client: (options) => new Client(IDENTITY, { ...options, versionNegotiation: { mode } }),
    answer: (client, method, answer) => client.setRequestHandler(method, answer),
    onUpdated: (client, told) => client.setNotificationHandler("notifications/resources/updated", told),
    watch: era === "modern" ? listen : subscribe,
    isAnswer: (error) =>
      error instanceof ProtocolError ||
      (error instanceof SdkError && error.code === SdkErrorCode.RequestTimeout),
    // Without "refresh" a second list may come from the client's own cache.
    list: async (client, options) => {
      const { tools } = await client.listTools(undefined, { ...options, cacheMode: "refresh" });
      return tools;
    },
    call: (client, params, options) => client.callTool(params, options),
  };
}

const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// Calls a tool until the server has told something, which it may do at any time.
async function callUntil(told, sdk, client, name, options) {
  const deadline = Date.now() + options.timeout;
  while (!told()) {
    if (Date.now() > deadline) throw new Error(`no change was told within ${options.timeout} ms`);
    await sdk.call(client, { name, arguments: {} }, options);
    await sleep(AGAIN_MS);
  }
}

async function callUntilUpdated(sdk, client, uri, name, options) {
  let updated = false;
  sdk.onUpdated(client, (notification) => {
    updated ||= notification.params.uri === uri;
  });
  const stop = await sdk.watch(client, uri, options);
  await callUntil(() => updated, sdk, client, name, options);
  await stop();
  return { updated: uri };
}

async function perform(sdk, client, operation, settings) {
  const options = { timeout: settings.timeout };
  if (operation.list) {
    const tools = await sdk.list(client, options);
    return { tools: tools.map((tool) => tool.name) };
  }
  if (operation.untilChanged !== undefined) {
    await callUntil(() => settings.changed, sdk, client, operation.untilChanged, options);
    return { changed: "tools" };
  }
  if (operation.untilUpdated !== undefined) {
    return callUntilUpdated(sdk, client, operation.untilUpdated, operation.by, options);
  }
  const { name, arguments: given } = operation;
  const told = (progress) => settings.progress && print({ progress });
  if (!settings.cancel) {
    if (settings.progress) options.onprogress = told;
    return { result: await sdk.call(client, { name, arguments: given }, options) };
  }
  const taken = new AbortController();
  options.signal = taken.signal;
  options.onprogress = (progress) => {
    told(progress);
    taken.abort();
  };
  try {
    return { result: await sdk.call(client, { name, arguments: given }, options) };
  } catch (error) {
    if (!taken.signal.aborted) throw error;
    return { cancelled: true };
  }
}

async function run(settings) {
  const sdk = settings.sdk === "v1" ? legacyOnlySdk() : bothErasSdk(settings.era);
  const headers = settings.bearer === undefined ? {} : { Authorization: `Bearer ${settings.bearer}` };
  const transport = new sdk.Transport(settings.url, { requestInit: { headers } });
  const { options, questions } = manners(settings);
  const client = sdk.client(options);
  for (const [method, answer] of questions) sdk.answer(client, method, answer);
  try {
    await client.connect(transport, { timeout: settings.timeout });
    for (const operation of settings.operations) {
      try {
        print(await perform(sdk, client, operation, settings));
      } catch (error) {
        if (!sdk.isAnswer(error)) throw error;
        print({ error: error.message, code: error.code });
      }
    }
    // Closing alone leaves a legacy session open on the server; in the modern era this does nothing.
    await transport.terminateSession();
  } finally {
    await client.close();
  }
}

function describe(error) {
  const causes = [];
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    // v1 gives its HTTP errors no name, and keeps the status in `code`.
    const status = cause.status ?? (cause.name === "Error" ? cause.code : undefined);
    if (Number.isInteger(status)) causes.push(`HTTP ${status}`);
    causes.push(cause.message || cause.code || cause.name);
  }
  return causes.length > 0 ? causes.join(": ") : String(error);
}

try {
  await run(readArguments(process.argv.slice(2)));
} catch (error) {
  const misused = error instanceof UsageError;
  process.stderr.write(misused ? `${error.message}\n${USAGE}\n` : `${describe(error)}\n`);
  process.exitCode = misused ? 2 : 1;
}
