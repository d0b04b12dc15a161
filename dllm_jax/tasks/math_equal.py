r"""Equality of mathematical answers, in processes with hard limits.

math-verify decides, in long-lived worker processes. It can hang in C code or
eat all memory, and its own timeouts work on the main thread alone, so they are
off: each question has its CPU seconds, counted by the kernel, and each process
its memory. Wall time is only a backstop, because a busy machine is no reason
for a wrong verdict.

Verdicts: True and False; a question that exceeds a bound is False. None is
"not judged": the process was lost twice for a reason outside the question.

Equal texts are equal answers, whatever math-verify makes of them.
"""

import atexit
import collections
import concurrent.futures
import contextlib
import importlib.util
import json
import os
import pathlib
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from dllm_jax import errors
from dllm_jax.tasks import claims

CPU_SECONDS = 3.0
WALL_FACTOR = 10.0  # a starved process needs several times its CPU seconds
_START_SECONDS = 60.0  # wall time for a worker to import math-verify
_MAX_CACHED = 2**16
_WORKER = pathlib.Path(__file__).with_name('math_worker.py')
# How a question ends a process: by its CPU seconds, or by a crash in C code.
_OWN_FAULT = (
  -signal.SIGPROF,
  -signal.SIGXCPU,
  -signal.SIGSEGV,
  -signal.SIGABRT,
  -signal.SIGBUS,
)

MAX_CHARS = 2000
MAX_DIGITS = 64
MAX_DEPTH = 50
MAX_EXPONENT = 10**4
MAX_FACTORIAL = 1000
MAX_ITEMS = 100

_EXPONENT = re.compile(r'\^\s*\{?\s*[-+]?\s*([0-9]+)')
_FACTORIAL = re.compile(r'([0-9]+)\s*!')
_TOWER = re.compile(r'\^\s*[{(]?\s*[0-9]+\s*\^|!\s*\)*\s*!|\^\s*[0-9]+\s*!')


class Lost(Exception):
  """A worker process is gone for a reason that is not its question's."""


def refused(text: str) -> str | None:
  """Why an answer is too large to be compared; None where it is not."""
  if len(text) > MAX_CHARS:
    return f'more than {MAX_CHARS} characters'
  if any(len(number) > MAX_DIGITS for number in re.findall(r'[0-9]+', text)):
    return f'a number of more than {MAX_DIGITS} digits'
  depth = deepest = 0
  for character in text:
    depth += (character in '{([') - (character in '})]')
    deepest = max(deepest, depth)
  if deepest > MAX_DEPTH:
    return f'nested deeper than {MAX_DEPTH}'
  if any(int(n) > MAX_EXPONENT for n in _EXPONENT.findall(text)):
    return f'an exponent above {MAX_EXPONENT}'
  if any(int(n) > MAX_FACTORIAL for n in _FACTORIAL.findall(text)):
    return f'a factorial above {MAX_FACTORIAL}'
  if _TOWER.search(text):
    return 'a tower of exponents or factorials'
  if text.count(',') + text.count(';') + text.count('&') >= MAX_ITEMS:
    return f'more than {MAX_ITEMS} items'
  return None


class Pool:
  """Worker processes that are shared by threads."""

  def __init__(
    self, num_workers: int | None = None, *, cpu_seconds: float = CPU_SECONDS
  ):
    """Starts nothing yet.

    Args:
      num_workers: processes at most; None is one a processor, up to eight.
      cpu_seconds: that one question may use.

    Raises:
      errors.UserError: math-verify is not installed.
    """
    if importlib.util.find_spec('math_verify') is None:
      raise errors.UserError(
        'the package math-verify, which compares mathematical answers, is not '
        'installed: pip install math-verify'
      )
    num_workers = num_workers or min(os.cpu_count() or 1, 8)
    self._workers = [_Worker(cpu_seconds) for _ in range(num_workers)]
    self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
    for worker in self._workers:
      self._idle.put(worker)
    self._threads = concurrent.futures.ThreadPoolExecutor(num_workers)
    self._cache: collections.OrderedDict[tuple[str, str], bool] = (
      collections.OrderedDict()
    )
    self._lock = threading.Lock()

  def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
    """Whether each prediction equals its gold answer.

    Args:
      pairs: (gold, prediction) texts, LaTeX without dollars or \\boxed.

    Returns:
      A verdict a pair; None where it could not be judged.

    Raises:
      errors.UserError: the workers cannot start.
    """
    pairs = [(gold.strip(), text.strip()) for gold, text in pairs]
    verdicts, asked = {}, {}
    for pair in dict.fromkeys(pairs):
      verdict = self._known(pair)
      if verdict is None:
        asked[pair] = self._threads.submit(self._ask, pair)
      else:
        verdicts[pair] = verdict
    try:
      for pair, future in asked.items():
        verdicts[pair] = future.result()
        self._keep(pair, verdicts[pair])
    finally:  # after Ctrl-C nobody waits for the rest
      for future in asked.values():
        future.cancel()
    return [verdicts[pair] for pair in pairs]

  def pids(self) -> list[int]:
    """Of the processes that run now."""
    return [w.process.pid for w in self._workers if w.process is not None]

  def close(self) -> None:
    """Ends the processes; waits for questions under way."""
    self._threads.shutdown(cancel_futures=True)
    for worker in self._workers:
      worker.end()

  def _known(self, pair: tuple[str, str]) -> bool | None:
    gold, text = pair
    if not gold or not text:
      return False
    if gold == text:
      return True
    if refused(gold) or refused(text):
      return False
    if not (claims.is_balanced(gold) and claims.is_balanced(text)):
      return False
    with self._lock:
      return self._cache.get(pair)

  def _keep(self, pair: tuple[str, str], verdict: bool | None) -> None:
    if verdict is None:
      return
    with self._lock:
      self._cache[pair] = verdict
      if len(self._cache) > _MAX_CACHED:
        self._cache.popitem(last=False)

  def _ask(self, pair: tuple[str, str]) -> bool | None:
    worker = self._idle.get()
    try:
      for _ in range(2):
        with contextlib.suppress(Lost):
          return worker.ask(*pair)
      return None
    finally:
      self._idle.put(worker)


class _Worker:
  """One process, started when it is first needed."""

  def __init__(self, cpu_seconds: float):
    self._cpu_seconds = cpu_seconds
    self.process: subprocess.Popen | None = None

  def ask(self, gold: str, prediction: str) -> bool:
    """The verdict; False too where the question ended the process.

    Raises:
      Lost: the process ended otherwise, or gave no answer in time.
    """
    if self.process is None:
      self._start()
    question = json.dumps([gold, prediction, self._cpu_seconds])
    try:
      self.process.stdin.write(question.encode() + b'\n')
      self.process.stdin.flush()
    except OSError:  # it was killed while idle
      self.end()
      raise Lost from None
    answer = self._read(WALL_FACTOR * self._cpu_seconds)
    if answer is None:
      if self.end() in _OWN_FAULT:
        return False
      raise Lost
    verdict, retire = answer
    if retire:
      self.end()
    return verdict

  def end(self) -> int | None:
    """Kills the process if it runs; its exit code."""
    process, self.process = self.process, None
    if process is None:
      return None
    process.kill()
    process.stdout.close()
    with contextlib.suppress(OSError):  # what was written and never read
      process.stdin.close()
    return process.wait()

  def _start(self) -> None:
    # -P: the folder of the script stays off the path.
    self.process = subprocess.Popen(
      [sys.executable, '-P', str(_WORKER)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
    )
    answer = self._read(_START_SECONDS)
    if answer is None:
      self.end()
      raise Lost
    if answer != 'ready':
      self.end()
      raise errors.UserError(
        f'the process that compares mathematical answers does not start: '
        f'{answer["error"]}'
      )

  def _read(self, seconds: float):
    """The next answer; None if the process ends or `seconds` pass."""
    deadline = time.monotonic() + seconds
    line = b''
    descriptor = self.process.stdout.fileno()
    while not line.endswith(b'\n'):
      left = deadline - time.monotonic()
      if left <= 0 or not select.select([descriptor], [], [], left)[0]:
        return None
      part = os.read(descriptor, 65536)
      if not part:
        with contextlib.suppress(subprocess.TimeoutExpired):
          self.process.wait(1)  # so that its own exit code is seen
        return None
      line += part
    return json.loads(line)


_shared: dict[int, Pool] = {}
_shared_lock = threading.Lock()


def shared_pool() -> Pool:
  """The pool of this process; it ends with it."""
  with _shared_lock:
    pool = _shared.get(os.getpid())
    if pool is None:
      _shared.clear()  # a fork copies the entry, but not the threads
      pool = _shared[os.getpid()] = Pool()
      atexit.register(pool.close)
    return pool


def equal(pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
  """`Pool.equal` of `shared_pool`."""
  return shared_pool().equal(pairs)
