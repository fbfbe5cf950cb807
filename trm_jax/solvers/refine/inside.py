"""The other side of the sandbox: a program that is read from standard input, run under every layer that works here.

Its text is given to `python -I -S -c`, so it imports the standard library alone and knows no path of the project. A
supervisor, or where there is a PID namespace its first process, waits for the program and ends whatever it leaves.
Answers are JSON lines on a pipe of their own.
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys

NEW_NS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
PR_PDEATHSIG, PR_SECCOMP, PR_NO_NEW_PRIVS, PR_SUBREAPER = 1, 22, 38, 36
PACKAGES = ("numpy", "numpy.libs", "scipy", "scipy.libs")  # besides the standard library
MOST_CHARACTERS = 65536  # of an answer
# Of a machine: its number in seccomp, those of clone and prlimit64, and those of what is refused: processes, programs,
# sockets, signals, tracing, namespaces, mounts, keys, what outlives its maker (shared memory, queues, pipes with a
# name), modes and owners of files.
CALLS = {
    "x86_64": (
        0xC000003E,
        56,
        302,
        (57, 58, 59, 322, 41, 53, 62, 200, 234, 129, 297, 424, 101, 310, 311, 272, 308, 165, 161, 155, 29, 68, 64)
        + (248, 249, 250, 298, 321, 323, 425, 438, 133, 259, 240)
        + (90, 91, 268, 92, 93, 94, 260, 132, 235, 261, 280, 188, 189, 190, 197, 198, 199, 452),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        261,
        (221, 281, 198, 199, 129, 130, 131, 138, 240, 424, 117, 270, 271, 97, 268, 40, 51, 41, 194, 186, 190)
        + (217, 218, 219, 241, 280, 282, 425, 438, 33, 180)
        + (52, 53, 54, 55, 88, 5, 6, 7, 14, 15, 16, 452),
    ),
}
CLONE3 = 435
libc = ctypes.CDLL(None, use_errno=True)


def call(*arguments):
    """A system call by its number."""
    result = libc.syscall(*[ctypes.c_long(x) if isinstance(x, int) else x for x in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def die_with(parent):
    """Be killed when the parent ends; True where it has ended already."""
    if sys.platform == "linux":
        libc.prctl(PR_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() not in (parent, 0)  # 0: one outside of the PID namespace


def namespaces(layers):
    """Enter namespaces of one's own, as many as this machine gives."""
    ids = os.geteuid(), os.getegid()
    for flags in (NEW_USER, 0):
        if libc.unshare(flags | NEW_NS | NEW_IPC | NEW_NET | NEW_PID):
            continue
        if flags:
            # Nobody in there, with numbers or without.
            for name, text in (("setgroups", "deny"), ("uid_map", "65534 %d 1"), ("gid_map", "65534 %d 1")):
                with contextlib.suppress(OSError), open("/proc/self/" + name, "w") as file:
                    file.write(text % ids[name == "gid_map"] if "%" in text else text)
            layers["user namespace"] = True
        layers["network namespace"] = layers["process namespace"] = True
        return


def no_capabilities():
    header, data = struct.pack("Ii", 0x20080522, 0), bytes(24)
    libc.capset(header, data)


def landlock(readable, listed):
    """Of files, reading what is readable and the names in what is listed; no TCP, no signals to others."""
    abi = call(444, 0, 0, 1)  # landlock_create_ruleset; 445: landlock_add_rule; 446: landlock_restrict_self
    rights = (1 << (16 if abi >= 5 else 15 if abi >= 3 else 12 + abi)) - 1
    attributes = struct.pack("QQQ", rights, 3, 3)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    rules = call(444, attributes, len(attributes), 0)
    # 0b100: reading a file, 0b1000: listing a folder.
    for path, folder_rights in [(one, 0b1100) for one in readable] + [(one, 0b1000) for one in listed]:
        with contextlib.suppress(FileNotFoundError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            call(445, rules, 1, struct.pack("=Qi", folder_rights if os.path.isdir(path) else 0b100, place), 0)
            os.close(place)
    call(446, rules, 0)
    os.close(rules)


def seccomp():
    """Refuse system calls that no transformation of a grid needs. Threads stay allowed."""
    machine, clone, prlimit, refused = CALLS[platform.machine()]
    load, equal, at_least, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, missing = 0x7FFF0000, 0x00050001, 0x00050026  # EPERM, ENOSYS: then the C library takes clone
    code = [(load, 0, 0, 4), (equal, 1, 0, machine), (end, 0, 0, refuse), (load, 0, 0, 0)]
    code += [(at_least, 0, 1, 0x40000000), (end, 0, 0, refuse)]
    code += [(equal, 0, 1, CLONE3), (end, 0, 0, missing)]
    for number in refused:
        code += [(equal, 0, 1, number), (end, 0, 0, refuse)]
    # Limits of its own, not those of others, whom a limit can kill.
    code += [(equal, 0, 4, prlimit), (load, 0, 0, 16), (equal, 1, 0, 0), (end, 0, 0, refuse), (end, 0, 0, allow)]
    code += [(equal, 0, 3, clone), (load, 0, 0, 16), (any_bit, 1, 0, 0x10000), (end, 0, 0, refuse), (end, 0, 0, allow)]
    program = b"".join(struct.pack("HBBI", *one) for one in code)
    kept = ctypes.create_string_buffer(program, len(program))
    filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(kept)))
    if libc.prctl(PR_SECCOMP, 2, filter, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def hook(readable, listed):
    """Refuse, with a line that says what, what Python itself is asked to do beyond reading its library."""
    within, real, decode = tuple(path + os.sep for path in readable), os.path.realpath, os.fsdecode
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    closed = "os shutil socket subprocess ctypes signal fcntl pty resource syslog cpython gc mmap sqlite3 glob tempfile"
    closed = frozenset(closed.split())
    text, plain, refusal, starts = (str, bytes), type, PermissionError, str.startswith

    def refuse(event, arguments):
        if event in ("open", "os.listdir", "os.scandir"):
            path = arguments[0]
            if plain(path) in text:
                reads = event != "open" or not (arguments[2] or 0) & writes
                place = real(decode(path))
                if reads and (starts(place + "/", within) or event != "open" and place in listed):
                    return
            raise refusal(f"{event} {path!r}: not allowed in the sandbox")
        if event.partition(".")[0] in closed:
            raise refusal(f"{event}: not allowed in the sandbox")

    sys.addaudithook(refuse)


def limits(request):
    """Those of the operating system; what cannot be set stays as it is."""
    cpu = int(request["seconds"]) + 1
    wanted = (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, request["bytes"], request["bytes"]),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, 32, 32),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NPROC, 64, 64),  # it does not bind root
    )
    for kind, soft, hard in wanted:
        with contextlib.suppress(ValueError, OSError, OverflowError):
            resource.setrlimit(kind, (soft, hard))


def library(packages):
    """What a program may read: the standard library, two packages, and the folders of libraries in use."""
    standard = os.path.realpath(os.path.dirname(os.__file__))
    found = [os.path.join(standard, name) for name in os.listdir(standard) if not name.endswith("-packages")]
    found += [os.path.realpath(os.path.join(packages, name)) for name in PACKAGES]
    with contextlib.suppress(FileNotFoundError), open("/proc/self/maps") as maps:
        used = {line.split(None, 5)[5].strip() for line in maps if ".so" in line}
        found += {os.path.realpath(os.path.dirname(one)) for one in used if one.startswith(("/lib", "/usr/lib"))}
    return found, (standard, os.path.realpath(packages))


def program(request, answers, layers):
    """Run it on all inputs; each answer is told when it is there."""
    sys.path[:] = [*sys.path, request["packages"]]
    import traceback

    import numpy

    code = request["code"]
    if "scipy" in code:  # it calls ctypes when it is imported
        with contextlib.suppress(ImportError):
            import scipy.ndimage  # noqa: F401
    readable, listed = library(request["packages"])
    limits(request)
    layers["limits"] = True
    without = request["without"]
    if sys.platform == "linux":
        libc.prctl(PR_NO_NEW_PRIVS, 1, 0, 0, 0)
        no_capabilities()
        for name, work in (("Landlock", lambda: landlock(readable, listed)), ("seccomp", seccomp)):
            with contextlib.suppress(OSError, KeyError):
                if name not in without:
                    work()
                    layers[name] = True
    array, number, dump, write, die = numpy.array, numpy.generic, json.JSONEncoder, os.write, os._exit

    def plain(value):
        if isinstance(value, (numpy.ndarray, number)):
            return value.tolist()
        raise TypeError(f"the answer holds a {type(value).__name__}")

    encode = dump(default=plain).encode

    def tell(said):
        line = encode(said).encode() + b"\n"
        while line:
            line = line[write(answers, line) :]

    def last_lines(error):
        try:
            lines = "".join(traceback.format_exception_only(type(error), error)).strip()
            places = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == "<program>"]
            return (f"line {places[-1].lineno}: " if places else "") + lines[-1500:]
        except BaseException:
            return type(error).__name__

    # It stays where nothing else keeps a program from the processes of others.
    if "audit hook" not in without or not (layers["process namespace"] or layers["seccomp"]):
        hook(readable, listed)
        layers["audit hook"] = True
    tell({"layers": layers})
    # Nothing of what stands here is for the program.
    inputs, names = request["inputs"], {"__name__": "program", "np": numpy}
    request.clear()
    try:
        exec(compile(code, "<program>", "exec"), names)
        transform = names["transform"] if "transform" in names else None
        failed = None if callable(transform) else "it defines no function transform(grid)"
    except BaseException as error:
        failed = last_lines(error)
    for at, grid in enumerate(inputs):
        said = {"input": at, "error": failed}
        if failed is None:
            try:
                answer = transform(array(grid, dtype=int))
                if len(encode(answer)) > MOST_CHARACTERS:
                    raise ValueError("the answer is far larger than 30 x 30 cells")
                said = {"input": at, "answer": answer}
            except BaseException as error:
                said["error"] = last_lines(error)
        try:
            tell(said)
        except BaseException as error:
            tell({"input": at, "error": type(error).__name__})
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    die(0)


def end_all():
    """Kill and collect every process below this one, those too whose parents have left them."""
    while True:
        with contextlib.suppress(FileNotFoundError), open("/proc/thread-self/children") as file:
            for pid in file.read().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def supervise(work, seconds=0.0):
    """Run `work` in a child and wait for it, for so many seconds if any: what is told of its end."""
    own = os.getpid()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if not die_with(own):
            work()
        os._exit(70)
    ended = 0
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while ended != child:
            ended, status = os.waitpid(-1, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        return {"end": "timeout"}
    code = os.waitstatus_to_exitcode(status)
    return {"end": "signal" if code < 0 else "exit", "number": abs(code)}


def main():
    request = json.loads(sys.stdin.buffer.read())
    if request["parent"] != os.getppid():
        return
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    answers, own = request["answers"], os.getppid()
    names = ("user namespace", "network namespace", "process namespace", "Landlock", "seccomp", "audit hook", "limits")
    layers = dict.fromkeys(names, False)

    def late(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    if sys.platform == "linux":
        libc.prctl(PR_SUBREAPER, 1, 0, 0, 0)
        if "namespaces" not in request["without"]:
            namespaces(layers)
    if die_with(own):
        return

    def alone():
        program(request, answers, layers)

    def tell(end):
        os.write(answers, b"\n" + json.dumps(end).encode() + b"\n")

    def first():
        """Of a PID namespace: with it ends everything in there."""
        tell(supervise(alone))
        os._exit(71)

    end = supervise(first if layers["process namespace"] else alone, request["seconds"])
    end_all()
    if not layers["process namespace"] or end != {"end": "exit", "number": 71}:
        tell(end)


if __name__ == "__main__":
    main()
