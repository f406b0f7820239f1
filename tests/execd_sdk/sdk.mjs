// The official SDK at work on execd, as a program that uses it would be.
//
// Arguments: the directory that has the SDK, host:port of the lifecycle server, and a directory that
// this process and the sandbox share.

import assert from "node:assert/strict";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as pause } from "node:timers/promises";

const [home, domain, shared] = process.argv.slice(2);
const require = createRequire(`${home}/`);
const { ConnectionConfig, Sandbox } = require("@alibaba-group/opensandbox");
const PATIENCE = 60_000;

const sandbox = await Sandbox.connect({
  sandboxId: "sb-1",
  connectionConfig: new ConnectionConfig({ domain }),
});
const { commands } = sandbox;
const texts = (messages) => messages.map((message) => message.text);

async function statusOnceEnded(id) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const status = await commands.getCommandStatus(id);
    if (!status.running) return status;
    assert(Date.now() < deadline, JSON.stringify(status));
    await pause(20);
  }
}

// Health and metrics.
assert(await sandbox.isHealthy());
const metrics = await sandbox.getMetrics();
assert(metrics.cpuCount > 0 && metrics.memoryTotalMiB > 0, JSON.stringify(metrics));
assert(metrics.cpuUsedPercentage >= 0 && metrics.memoryUsedMiB > 0, JSON.stringify(metrics));

// Commands.
let done = await commands.run("echo hello; echo oops >&2; exit 3");
assert.deepEqual(texts(done.logs.stdout), ["hello"]);
assert.deepEqual(texts(done.logs.stderr), ["oops"]);
assert.equal(done.exitCode, 3);
assert.equal(done.error.name, "CommandExecError");
assert.deepEqual(done.error.traceback, ["exit status 3"]);
assert.match(done.id, /^[0-9a-f]{32}$/);
done = await commands.run("true");
assert.equal(done.exitCode, 0);
assert(done.complete);
done = await commands.run("kill -9 $$");
assert.equal(done.exitCode, -1);

// Output.
done = await commands.run(String.raw`printf 'a\n\nb\r50%%\r100%%\nlast'`);
assert.deepEqual(texts(done.logs.stdout), ["a", "\n", "b", "50%", "100%", "last"]);
const odd = "\u2028 \u2029 \x85 <&> \" \\ \u00e9 \u{1f600}";
done = await commands.run(`cat <<'E'\n${odd}\nE`);
assert.deepEqual(texts(done.logs.stdout), [odd]);
done = await commands.run("head -c 4194304 /dev/zero | tr '\\0' x");
assert.deepEqual(texts(done.logs.stdout), ["x".repeat(4194304)]);
done = await commands.run("seq 20000");
assert.equal(done.logs.stdout.length, 20000);
assert.equal(done.logs.stdout[19999].text, "20000");

// Streaming: the command ends only after its first line has been handled here.
const heard = `${shared}/heard`;
const seen = [];
await commands.run(
  `echo ready; until [ -e ${heard} ]; do sleep 0.01; done; echo over; echo bad >&2; exit 2`,
  {},
  {
    onInit: () => seen.push("init"),
    onStdout: (message) => {
      seen.push(message.text);
      if (message.text === "ready") writeFileSync(heard, "");
    },
    onStderr: (message) => seen.push(`err ${message.text}`),
    onError: (error) => seen.push(`error ${error.value}`),
    onExecutionComplete: () => seen.push("complete"),
  },
);
rmSync(heard);
// Two pipes have no order between them but that of arrival.
assert.deepEqual(seen.slice(0, 2), ["init", "ready"]);
assert.deepEqual(seen.slice(2, 4).sort(), ["err bad", "over"]);
assert.deepEqual(seen.slice(4), ["error 2"]);

// The raw stream has one end, and nothing after it.
const types = [];
for await (const event of commands.runStream("echo x; exit 5")) types.push(event.type);
assert.deepEqual(
  types.filter((type) => type !== "ping"),
  ["init", "stdout", "error"],
);

// Options.
done = await commands.run('pwd; printf "%s\\n" "$GREETING"', {
  workingDirectory: shared,
  envs: { GREETING: 'h\u00e9llo "$x"' },
});
assert.deepEqual(texts(done.logs.stdout), [shared, 'h\u00e9llo "$x"']);
done = await commands.run("echo early; sleep 300 & sleep 300", { timeoutSeconds: 1 });
assert.equal(done.exitCode, -1);
assert.deepEqual(texts(done.logs.stdout), ["early"]);
if (process.geteuid() === 0) {
  done = await commands.run("id -u; id -g", { uid: 65534, gid: 65534 });
  assert.deepEqual(texts(done.logs.stdout), ["65534", "65534"]);
}
await assert.rejects(commands.run("pwd", { workingDirectory: "/does/not/exist" }));

// A client that turns away ends the stream here; the command goes on, and the daemon is well.
for await (const event of commands.runStream("echo x; sleep 300")) {
  if (event.type === "init") done = { id: event.text };
  if (event.type === "stdout") break;
}
assert((await commands.getCommandStatus(done.id)).running);
await commands.interrupt(done.id);
assert.equal((await statusOnceEnded(done.id)).exitCode, -1);

// Background.
const go = `${shared}/go`;
const started = await commands.run(
  `echo one; echo two >&2; until [ -e ${go} ]; do sleep 0.01; done; echo three; exit 4`,
  { background: true },
);
let [content, cursor] = ["", undefined];
for (const deadline = Date.now() + PATIENCE; content !== "one\ntwo\n"; ) {
  const logs = await commands.getBackgroundCommandLogs(started.id, cursor);
  content += logs.content;
  cursor = logs.cursor;
  assert(Date.now() < deadline, content);
}
assert((await commands.getCommandStatus(started.id)).running);
writeFileSync(go, "");
const status = await statusOnceEnded(started.id);
rmSync(go);
assert.equal(status.exitCode, 4);
assert(status.startedAt <= status.finishedAt);
assert.equal((await commands.getBackgroundCommandLogs(started.id, cursor)).content, "three\n");
await assert.rejects(commands.getCommandStatus("0".repeat(32)));

// Sessions.
const session = await commands.createSession({ workingDirectory: shared });
done = await commands.runInSession(session, "pwd; B=plain; export A=x; f() { echo f-$1; }; cd /tmp");
assert.deepEqual(texts(done.logs.stdout), [shared]);
done = await commands.runInSession(session, 'echo "$A $B"; f 1; pwd');
assert.deepEqual(texts(done.logs.stdout), ["x plain", "f-1", "/tmp"]);
done = await commands.runInSession(session, "sh -c 'echo session-fail >&2; exit 7'");
assert.equal(done.exitCode, 7);
done = await commands.runInSession(session, "sleep 300", { timeoutSeconds: 1 });
assert.equal(done.exitCode, -1);
done = await commands.runInSession(session, "pwd", { workingDirectory: "/var" });
assert.deepEqual(texts(done.logs.stdout), ["/var"]);
await commands.deleteSession(session);
await assert.rejects(commands.deleteSession(session));
await assert.rejects(commands.runInSession(session, "true"));

// Many at once.
const many = await Promise.all(
  Array.from({ length: 64 }, (_, n) => commands.run(`echo ${n}; exit ${n % 7}`)),
);
many.forEach((done, n) => {
  assert.equal(done.exitCode, n % 7);
  assert.deepEqual(texts(done.logs.stdout), [String(n)]);
});

assert(!existsSync(go));
await sandbox.close();
console.log("@alibaba-group/opensandbox", require(`${home}/node_modules/@alibaba-group/opensandbox/package.json`).version);
