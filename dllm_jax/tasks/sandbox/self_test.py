"""Attacks on the sandbox itself, before it is trusted with anything.

Each attack is a program that passes its test only if it reached what must be
out of reach. Two honest programs show that the sandbox is not just broken.
"""

import os
import pathlib
import secrets
import socket
import tempfile
import textwrap
from collections.abc import Iterator

from dllm_jax.tasks import coding
from dllm_jax.tasks.sandbox import hosts

_TRUE = 'assert attack() == True'
_JUDGED = 'def check(candidate):\n  for _ in range(1): assert candidate() == 1'


class Broken(Exception):
  """The sandbox does not run honest programs here; the message says why."""


# Programs that would be believed by a judge that shares a process with them.
_FORGERIES = {
  'exit at import': ('import os\nos._exit(0)', _TRUE),
  'exit in the function': ('import os\ndef attack(): os._exit(0)', _JUDGED),
  'SystemExit': ('def attack(): raise SystemExit(0)', _JUDGED),
  'an equal object': (
    'class E:\n  def __eq__(self, other): return True\n'
    'def attack(): return E()',
    _JUDGED,
  ),
  'an equal number': (
    'class E(int):\n  def __eq__(self, other): return True\n'
    'def attack(): return E(7)',
    _TRUE,
  ),
  'a report of its own': (
    'import os, json\nfor d in (3, 4):\n'
    '  b = json.dumps({"passed": 1, "total": 1, "reason": ""}).encode()\n'
    '  try: os.write(d, len(b).to_bytes(4, "big") + b)\n'
    '  except OSError: pass\nos._exit(0)',
    _JUDGED,
  ),
}

# Bodies of functions that return True when they got through. They aim at the
# file `secret` of FOLDER, where anybody may read and write, which holds SECRET;
# at PORT, where this process listens on 127.0.0.1; and at PID, its own.
_REACHES = {
  'reads a file': 'return open(FOLDER + "/secret").read() == SECRET',
  'lists the users': 'return bool(open("/etc/passwd").read())',
  'writes a file': 'open(FOLDER + "/written", "w").write("x"); return True',
  'reads another process': """
    import os
    return bool(open(f"/proc/{PID}/environ", "rb").read())
  """,
  'sees the environment': """
    import os
    return any("DLLM" in n or "HOME" in n for n in os.environ)
  """,
  'connects': """
    import socket
    socket.create_connection(("127.0.0.1", PORT), 1)
    return True
  """,
  'opens a local socket': """
    import socket
    return bool(socket.socketpair())
  """,
  'forks': """
    import os
    if os.fork() == 0: os._exit(0)
    return True
  """,
  'runs a program': """
    import os
    os.execv("/bin/true", ["true"])
  """,
  'runs a shell': """
    import ctypes
    return ctypes.CDLL(None).system(b"true") == 0
  """,
  'signals the trainer': """
    import os
    os.kill(PID, 0)
    return True
  """,
  'signals its parent': """
    import os
    os.kill(os.getppid() or 1, 0)
    return True
  """,
  'traces': """
    import ctypes
    return ctypes.CDLL(None).ptrace(16, PID, 0, 0) == 0
  """,
  'takes namespaces': """
    import ctypes
    return ctypes.CDLL(None).unshare(0x10000000) == 0
  """,
  'makes a queue or shared memory': """
    import ctypes
    libc = ctypes.CDLL(None)
    return libc.shmget(0, 4096, 0o1600) >= 0 or libc.memfd_create(b"m", 0) >= 0
  """,
  'uses io_uring': """
    import ctypes
    return ctypes.CDLL(None).syscall(425, 1, bytes(256)) >= 0
  """,
  'raises its limits': """
    import resource
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    return True
  """,
}

_HONEST = {
  'values': (
    'import math\ndef attack(): return math.isqrt(1) == 1',
    _TRUE,
  ),
  'a test': ('def attack(): return len("x")', _JUDGED),
}


def check(judge: coding.CodeJudge) -> None:
  """Attacks a sandbox.

  Raises:
    hosts.Refused: an attack succeeded.
    Broken: the sandbox does not run honest programs.
  """
  with tempfile.TemporaryDirectory(prefix='sandbox-') as folder:
    os.chmod(folder, 0o777)
    with socket.create_server(('127.0.0.1', 0)) as server:
      targets = {
        'FOLDER': folder,
        'SECRET': secrets.token_hex(8),
        'PORT': server.getsockname()[1],
        'PID': os.getpid(),
      }
      pathlib.Path(folder, 'secret').write_text(targets['SECRET'])
      for verdict in _verdicts(judge, _HONEST).values():
        if not verdict.passed:
          raise Broken(verdict.reason)
      attacks = _FORGERIES | dict(_reaches(targets))
      found = _verdicts(judge, attacks)
      unknown = [name for name, v in found.items() if v.passed is None]
      again = {name: attacks[name] for name in unknown}
      found |= _verdicts(judge, again) if again else {}
    written = pathlib.Path(folder, 'written').exists()
  passed = [name for name, verdict in found.items() if verdict.passed]
  if passed or written:
    raise hosts.Refused(
      'the sandbox does not confine programs on this host: the self-test '
      f'{", ".join(passed) or "writes a file"!r} got through; do not run '
      'model-written programs here'
    )
  for name, verdict in found.items():
    if verdict.passed is None:  # it may have got through, and killed its judge
      raise Broken(f'{name!r} is not judged: {verdict.reason}')


def _verdicts(
  judge: coding.CodeJudge, named: dict[str, tuple[str, str]]
) -> dict[str, coding.Verdict]:
  verdicts = judge.judge(
    [coding.Submission(code, test, 'attack') for code, test in named.values()]
  )
  return dict(zip(named, verdicts, strict=True))


def _reaches(
  targets: dict[str, str | int],
) -> Iterator[tuple[str, tuple[str, str]]]:
  start = ''.join(f'{name} = {value!r}\n' for name, value in targets.items())
  for name, body in _REACHES.items():
    body = textwrap.indent(textwrap.dedent(body).strip('\n'), '  ')
    yield name, (f'{start}def attack():\n{body}', _TRUE)
