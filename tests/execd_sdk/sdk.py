"""The official SDK at work on execd, as a program that uses it would be.

Arguments: `sync` or `async`, host:port of the lifecycle server, and a directory that this process
and the sandbox share. The same checks serve both: what the asynchronous SDK returns is awaited,
what the other one returns is not.
"""

import asyncio
import inspect
import os
import sys
import time
from datetime import timedelta
from importlib.metadata import version

from opensandbox import Sandbox, SandboxSync
from opensandbox.config import ConnectionConfig
from opensandbox.config.connection_sync import ConnectionConfigSync
from opensandbox.exceptions import SandboxApiException
from opensandbox.models.execd import ExecutionHandlers, RunCommandOpts
from opensandbox.models.execd_sync import ExecutionHandlersSync

kind, domain, shared = sys.argv[1:]
ASYNC = kind == "async"
PATIENCE = 60


async def it(value):
    """The value, or what it is a promise of."""
    return await value if inspect.isawaitable(value) else value


def handlers(**functions):
    if not ASYNC:
        return ExecutionHandlersSync(**functions)

    def asynchronous(function):
        async def call(argument):
            # A handler may use the SDK itself.
            await it(function(argument))

        return call

    wrapped = {name: asynchronous(function) for name, function in functions.items()}
    return ExecutionHandlers(**wrapped)


async def at_once(makes):
    """The values of these, which are under way at the same time."""
    if ASYNC:
        return await asyncio.gather(*(make() for make in makes))
    return await asyncio.gather(*(asyncio.to_thread(make) for make in makes))


async def fails(status, make):
    try:
        await it(make())
    except SandboxApiException as error:
        assert error.status_code == status, (error.status_code, error)
        return str(error)
    raise AssertionError(f"no error, but {status} was expected")


def texts(messages):
    return [message.text for message in messages]


async def connect():
    if ASYNC:
        return await Sandbox.connect("sb-1", ConnectionConfig(domain=domain))
    return SandboxSync.connect("sb-1", ConnectionConfigSync(domain=domain))


async def check_health_and_metrics(sandbox):
    assert await it(sandbox.is_healthy())
    metrics = await it(sandbox.get_metrics())
    assert metrics.cpu_count > 0, metrics
    assert 0 <= metrics.cpu_used_percentage <= 100, metrics
    assert 0 < metrics.memory_used_in_mib <= metrics.memory_total_in_mib, metrics


async def check_commands(commands):
    done = await it(commands.run("echo hello; echo oops >&2; exit 3"))
    assert texts(done.logs.stdout) == ["hello"], done
    assert texts(done.logs.stderr) == ["oops"], done
    assert done.exit_code == 3 and done.complete is None, done
    assert (done.error.name, done.error.value) == ("CommandExecError", "3"), done
    assert done.error.traceback == ["exit status 3"], done
    assert len(done.id) == 32 and int(done.id, 16), done

    done = await it(commands.run("true"))
    assert done.exit_code == 0 and done.error is None, done
    assert done.complete.execution_time_in_millis >= 0, done

    # The shell reads it, not the SDK: quotes, pipes, a here-document.
    done = await it(commands.run("cat <<'E' | tr a-z A-Z\na b \"c\" $d\nE"))
    assert texts(done.logs.stdout) == ['A B "C" $D'], done

    done = await it(commands.run("kill -9 $$"))
    assert done.exit_code == -1 and done.error.traceback == ["signal: killed"], done


async def check_output(commands):
    # Blank lines, carriage returns, an end without a line feed.
    done = await it(commands.run(r"printf 'a\n\nb\r50%%\r100%%\nlast'"))
    assert texts(done.logs.stdout) == ["a", "\n", "b", "50%", "100%", "last"], done
    # What splits lines for Python and not for a shell, and what no JSON has.
    odd = "\u2028 \u2029 \x85 \x0b \x0c \x1c <&> \" \\ \u00e9 \U0001f600"
    done = await it(commands.run(f"cat <<'E'\n{odd}\nE"))
    assert texts(done.logs.stdout) == [odd], done
    done = await it(commands.run(r"printf 'x\377y\000z\n'"))
    assert texts(done.logs.stdout) == ["x\ufffdy\0z"], done
    # One line of 4 MiB.
    done = await it(commands.run("head -c 4194304 /dev/zero | tr '\\0' x"))
    (line,) = texts(done.logs.stdout)
    assert line == "x" * 4194304, len(line)
    # Many lines, none lost, in order.
    done = await it(commands.run("seq 20000"))
    assert texts(done.logs.stdout) == [str(n) for n in range(1, 20001)]
    # Order between the streams.
    done = await it(commands.run("for i in 1 2 3; do echo o$i; echo e$i >&2; done"))
    assert texts(done.logs.stdout) == ["o1", "o2", "o3"], done
    assert texts(done.logs.stderr) == ["e1", "e2", "e3"], done


async def check_streaming(commands):
    """The command ends only after its first line has been handled here."""
    path = os.path.join(shared, "heard")
    seen = []

    def stdout(message):
        seen.append(message.text)
        if message.text == "ready":
            open(path, "w").close()

    done = await it(
        commands.run(
            f"echo ready; until [ -e {path} ]; do sleep 0.01; done; echo over; echo bad >&2; exit 2",
            handlers=handlers(
                on_init=lambda init: seen.append(("init", init.id)),
                on_stdout=stdout,
                on_stderr=lambda message: seen.append(("err", message.text)),
                on_error=lambda error: seen.append(("error", error.value)),
                on_execution_complete=lambda _: seen.append("complete"),
            ),
        )
    )
    os.remove(path)
    # Two pipes have no order between them but that of arrival.
    assert seen[:2] == [("init", done.id), "ready"], seen
    assert sorted(seen[2:4], key=str) == [("err", "bad"), "over"], seen
    assert seen[4:] == [("error", "2")], seen


async def check_options(commands):
    opts = RunCommandOpts(
        working_directory=shared, envs={"GREETING": "h\u00e9llo \"$x\"\nthere", "EMPTY": ""}
    )
    done = await it(commands.run('pwd; printf %s "$GREETING"; echo "${EMPTY-unset}"', opts=opts))
    assert texts(done.logs.stdout) == [shared, 'h\u00e9llo "$x"', "there"], done

    text = await fails(
        400, lambda: commands.run("pwd", opts=RunCommandOpts(working_directory="/does/not/exist"))
    )
    assert "/does/not/exist" in text or "400" in text, text

    began = time.monotonic()
    opts = RunCommandOpts(timeout=timedelta(seconds=1))
    done = await it(commands.run("echo early; sleep 300 & sleep 300", opts=opts))
    assert time.monotonic() - began < PATIENCE
    assert done.exit_code == -1 and texts(done.logs.stdout) == ["early"], done

    if os.geteuid() == 0:
        opts = RunCommandOpts(uid=65534, gid=65534)
        done = await it(commands.run("id -u; id -g", opts=opts))
        assert texts(done.logs.stdout) == ["65534", "65534"], done
    text = await fails(404, lambda: commands.get_command_status("0" * 32))
    assert "not found" in text, text


async def status_once_ended(commands, id):
    deadline = time.monotonic() + PATIENCE
    while True:
        status = await it(commands.get_command_status(id))
        if not status.running:
            return status
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.02)


async def check_background(commands):
    path = os.path.join(shared, "go")
    script = f"echo one; echo two >&2; until [ -e {path} ]; do sleep 0.01; done; echo three; exit 4"
    started = await it(commands.run(script, opts=RunCommandOpts(background=True)))
    assert started.exit_code is None and started.error is None, started
    status = await it(commands.get_command_status(started.id))
    assert status.running and status.exit_code is None and status.finished_at is None, status
    assert status.id == started.id and status.content == script, status

    content, cursor = "", None
    deadline = time.monotonic() + PATIENCE
    while content != "one\ntwo\n":
        logs = await it(commands.get_background_command_logs(started.id, cursor=cursor))
        content, cursor = content + logs.content, logs.cursor
        assert time.monotonic() < deadline, content
    assert cursor == len(content)
    logs = await it(commands.get_background_command_logs(started.id, cursor=cursor))
    assert (logs.content, logs.cursor) == ("", cursor), logs

    open(path, "w").close()
    status = await status_once_ended(commands, started.id)
    os.remove(path)
    assert status.exit_code == 4 and status.error == "exit status 4", status
    assert status.started_at <= status.finished_at, status
    logs = await it(commands.get_background_command_logs(started.id, cursor=cursor))
    assert logs.content == "three\n" and logs.cursor == cursor + 6, logs
    await fails(400, lambda: commands.get_background_command_logs("0" * 32))

    # What a background command leaves running goes on.
    left = os.path.join(shared, "left")
    started = await it(
        commands.run(
            f"(until [ -e {path} ]; do sleep 0.01; done; echo alive > {left}) &",
            opts=RunCommandOpts(background=True),
        )
    )
    status = await status_once_ended(commands, started.id)
    assert status.exit_code == 0, status
    open(path, "w").close()
    deadline = time.monotonic() + PATIENCE
    while not (os.path.exists(left) and open(left).read() == "alive\n"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    os.remove(path)
    os.remove(left)


async def check_interrupt(commands):
    # In the background, a shell that ignores the request included.
    for script in ["sleep 300 & sleep 300", "trap '' TERM; while :; do sleep 0.05; done"]:
        started = await it(commands.run(script, opts=RunCommandOpts(background=True)))
        await it(commands.interrupt(started.id))
        status = await status_once_ended(commands, started.id)
        assert status.exit_code == -1 and status.error.startswith("signal: "), status
        await fails(500, lambda: commands.interrupt(started.id))
    # In the foreground, from a handler.
    done = await it(
        commands.run(
            "sleep 300",
            handlers=handlers(on_init=lambda init: commands.interrupt(init.id)),
        )
    )
    assert done.exit_code == -1 and done.error.traceback[0] == "signal: terminated", done
    await fails(500, lambda: commands.interrupt("0" * 32))


async def check_sessions(commands):
    session = await it(commands.create_session(working_directory=shared))

    async def run(command, **options):
        return await it(commands.run_in_session(session, command, **options))

    done = await run("pwd")
    assert texts(done.logs.stdout) == [shared] and done.exit_code == 0, done
    assert texts((await run("pwd", working_directory="/var")).logs.stdout) == ["/var"]
    # What a shell remembers: exported, plain, a function, an alias, an option, the directory.
    done = await run(
        "export A='$x `y` \"z\"\n\tt'; B=plain; f() { echo f-$1; }; cd /tmp; set -o noglob"
    )
    assert done.exit_code == 0, done
    done = await run('printf "%s|" "$A" "$B"; f 1; pwd; echo *')
    assert "\n".join(texts(done.logs.stdout)) == '$x `y` "z"\n\tt|plain|f-1\n/tmp\n*', done
    done = await run("sh -c 'echo session-fail >&2; exit 7'")
    assert done.exit_code == 7 and texts(done.logs.stdout) == ["session-fail"], done
    # A time-out is an error the client can read, and not the end of the session.
    done = await run("sleep 300 & sleep 300", timeout=timedelta(seconds=1))
    assert done.exit_code == -1 and done.error is not None, done
    done = await run("exit 9")
    assert done.exit_code == 9, done
    done = await run('echo "$B"')
    assert done.exit_code == 0, done

    other = await it(commands.create_session())
    done = await it(commands.run_in_session(other, "echo ${B-unset}"))
    assert texts(done.logs.stdout) == ["unset"], done
    await it(commands.delete_session(other))
    await it(commands.delete_session(session))
    await fails(404, lambda: commands.delete_session(session))
    await fails(404, lambda: commands.run_in_session(session, "true"))


async def check_environment_file(commands):
    for value in ["plain", "two words", "a=b#c", "tab\there", 'qu"ote', "it's", "new\nline", ""]:
        await it(commands.set_env("REMEMBERED", value))
        done = await it(commands.run('printf %s "$REMEMBERED" | od -An -c -v | tr -d " \\n"'))
        wanted = await it(commands.run('printf %s "$V" | od -An -c -v | tr -d " \\n"', opts=RunCommandOpts(envs={"V": value})))
        assert texts(done.logs.stdout) == texts(wanted.logs.stdout), (value, done, wanted)


async def check_many(commands):
    def make(number):
        return lambda: commands.run(f"echo {number}; echo {number} >&2; exit {number % 7}")

    for number, done in enumerate(await at_once([make(n) for n in range(64)])):
        assert done.exit_code == number % 7, (number, done)
        assert texts(done.logs.stdout) == [str(number)] == texts(done.logs.stderr), done


async def main():
    sandbox = await connect()
    commands = sandbox.commands
    await check_health_and_metrics(sandbox)
    await check_commands(commands)
    await check_output(commands)
    await check_streaming(commands)
    await check_options(commands)
    await check_background(commands)
    await check_interrupt(commands)
    await check_sessions(commands)
    await check_environment_file(commands)
    await check_many(commands)
    await it(sandbox.close())
    print("opensandbox", version("opensandbox"))


asyncio.run(main())
