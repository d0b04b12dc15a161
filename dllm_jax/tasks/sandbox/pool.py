"""Many programs at a time: workers that are reused, replaced and ended."""

import concurrent.futures
import os
import queue
import warnings
from collections.abc import Sequence

from dllm_jax.tasks import coding
from dllm_jax.tasks.sandbox import (
  hosts,
  limits,
  plain,
  plans,
  self_test,
  trial,
  worker,
)

ROTATE_AFTER = 1000  # programs of a worker, whose processes are then replaced
MAX_CODE_CHARS = 2**17
_MAX_WORKERS = 8
_TRIES = 2
_WEAKER = (
  'programs run without namespaces of their own, confined by seccomp and '
  'landlock alone: {}'
)
_tested: set[tuple[str, int]] = set()  # tiers that withstood, and as whom


class Sandbox:
  """A `coding.CodeJudge` that runs programs in confined processes.

  Several threads may share it. It is a context manager; what it started also
  ends with the process that made it, however that ends.
  """

  def __init__(
    self,
    bounds: limits.Limits | None = None,
    *,
    tier: str = 'auto',
    workers: int | None = None,
  ):
    """Attacks itself first, once in a process.

    Args:
      bounds: of each program.
      tier: 'namespaces', 'seccomp', or 'auto' for the better one that works.
      workers: programs at a time; None is one a processor, up to eight.

    Raises:
      hosts.Refused: the host offers no such confinement, or it leaks.
    """
    self.bounds = bounds or limits.Limits()
    self._count = workers or min(os.cpu_count() or 1, _MAX_WORKERS)
    failures = []
    for name in hosts.candidates(tier):
      self._open(name)
      try:
        if (name, os.geteuid()) not in _tested:
          self_test.check(self)
          _tested.add((name, os.geteuid()))
        break
      except self_test.Broken as error:
        failures.append(f'{name}: {error}')
        self.close()
      except BaseException:
        self.close()
        raise
    else:
      raise hosts.refusal(failures)
    if tier == 'auto' and self.tier != hosts.TIERS[0]:
      why = '; '.join(failures) or hosts.lacks(hosts.TIERS[0])
      warnings.warn(_WEAKER.format(why), stacklevel=2)

  def _open(self, tier: str) -> None:
    self.tier = tier
    self._owner = os.getpid()
    self._slots = [
      _Slot(tier, self.bounds, number) for number in range(self._count)
    ]
    self._idle: queue.LifoQueue[_Slot] = queue.LifoQueue()
    for slot in self._slots:
      self._idle.put(slot)
    # A zygote ends with the thread that started it, and these threads last as
    # long as the pool.
    self._threads = concurrent.futures.ThreadPoolExecutor(
      self._count, thread_name_prefix='sandbox'
    )

  def __enter__(self) -> 'Sandbox':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def judge(
    self, submissions: Sequence[coding.Submission]
  ) -> list[coding.Verdict]:
    """A verdict a submission, in order; equal submissions are run once.

    `passed` is None, and `share` nan, where the sandbox failed twice
    ('infrastructure ...') or the test cannot be judged ('unsupported ...').
    """
    if os.getpid() != self._owner:
      raise RuntimeError('a sandbox belongs to the process that made it')
    futures = {
      submission: self._threads.submit(self._judge, submission)
      for submission in dict.fromkeys(submissions)
    }
    try:
      return [futures[submission].result() for submission in submissions]
    finally:  # after Ctrl-C nobody waits for the rest
      for future in futures.values():
        future.cancel()

  def pids(self) -> list[int]:
    """Of the processes that this one started and that run now."""
    return [pid for slot in self._slots for pid in slot.pids()]

  def close(self) -> None:
    """Ends the processes; waits for programs under way."""
    self._threads.shutdown(cancel_futures=True)
    for slot in self._slots:
      slot.end()

  def _judge(self, submission: coding.Submission) -> coding.Verdict:
    try:
      plan = plans.plan(submission.test, submission.entry_point)
    except plans.Unsupported as error:
      return trial.unjudged(f'unsupported: {error}')
    if not _fits(submission.code):
      return trial.failed('too long')
    slot = self._idle.get()
    try:
      for _ in range(_TRIES):
        try:
          return slot.run(plan, submission.code)
        except worker.Lost as lost:
          reason = f'infrastructure: {lost}'
        except plain.NotPlain as error:  # of the test's arguments
          return trial.unjudged(f'unsupported: the test has {error}')
      return trial.unjudged(reason)
    finally:
      self._idle.put(slot)


def _fits(code: str) -> bool:
  """In characters, and in a frame, where some take twelve bytes."""
  if len(code) > MAX_CODE_CHARS:
    return False
  try:
    plain.frame(code)
  except plain.NotPlain:
    return False
  return True


class _Slot:
  """The two zygotes of a worker: for programs, and for tests."""

  def __init__(self, tier: str, bounds: limits.Limits, number: int):
    self._bounds = bounds
    settings = worker.config(tier, bounds)
    self._solution, self._examiner = (
      worker.Worker(tier, bounds, 2 * number + side, settings)
      for side in range(2)
    )

  def run(
    self, plan: plans.Values | plans.Examination, code: str
  ) -> coding.Verdict:
    """The verdict.

    Raises:
      worker.Lost: the machinery failed; the next run starts afresh.
    """
    for side in (self._solution, self._examiner):
      if side.num_begun >= ROTATE_AFTER:
        side.end()
    finished = False
    try:
      if isinstance(plan, plans.Values):
        verdict = trial.by_values(plan, code, self._solution, self._bounds)
      else:
        verdict = trial.by_examination(
          plan, code, self._solution, self._examiner, self._bounds
        )
      finished = True
      return verdict
    finally:
      if not finished:  # what is under way has no reader any more
        self.end(kill=True)

  def pids(self) -> list[int]:
    sides = (self._solution, self._examiner)
    return [side.pid for side in sides if side.pid is not None]

  def end(self, *, kill: bool = False) -> None:
    """Ends both processes."""
    self._solution.end(kill=kill)
    self._examiner.end(kill=kill)
