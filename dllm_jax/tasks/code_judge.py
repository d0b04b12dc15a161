"""The sandboxes of a process: each is started when first needed, and shared.

Starting one takes its self-test; a host where programs cannot be confined is
refused there.
"""

import atexit
import dataclasses
import os
import threading
from collections.abc import Sequence

from dllm_jax.tasks import coding, programs
from dllm_jax.tasks.sandbox import hosts, limits, pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class SandboxJudge:
  """Judges programs in the sandbox of these settings.

  Attributes:
    tier: how programs are confined; 'auto' is the strongest that works.
    workers: programs at a time; 0 is one a processor, up to eight.
    bounds: of a program with all its tests.
  """

  tier: str
  workers: int
  bounds: limits.Limits

  def __post_init__(self):
    if self.workers < 0:
      raise ValueError(f'sandbox_workers must not be negative: {self.workers}')
    if self.tier not in ('auto', *hosts.TIERS):
      raise ValueError(
        f'sandbox_tier must be auto, {" or ".join(hosts.TIERS)}: {self.tier!r}'
      )

  def judge(
    self, submissions: Sequence[coding.Submission]
  ) -> list[coding.Verdict]:
    """A verdict a submission, in order.

    Raises:
      errors.UserError: no program can be confined on this host.
    """
    return _shared(self).judge(submissions) if submissions else []


_open: dict[tuple[int, SandboxJudge], pool.Sandbox] = {}
_lock = threading.Lock()


def _shared(judge: SandboxJudge) -> pool.Sandbox:
  with _lock:
    # A fork inherits the entries, but the sandboxes are its parent's.
    key = (os.getpid(), judge)
    if key not in _open:
      _open[key] = pool.Sandbox(
        judge.bounds, tier=judge.tier, workers=judge.workers or None
      )
    return _open[key]


def close() -> None:
  """Ends the sandboxes that this process started."""
  with _lock:
    own = [key for key in _open if key[0] == os.getpid()]
    for key in own:
      _open.pop(key).close()


atexit.register(close)


def make_task(
  *,
  name: str,
  reading: programs.Reading = 'layout',
  prompt_style: str = 'd1',
  sandbox_tier: str = 'auto',
  sandbox_workers: int = 0,
  sandbox_cpu_seconds: float = 6.0,
  sandbox_memory_mib: int = 1024,
) -> coding.Coding:
  """A code task by the keys of the config group `task`.

  Args:
    name: the key in `tasks.TASKS`.
    reading: of completions; see `programs`.
    prompt_style: see `styles.Styled`.
    sandbox_tier: see `SandboxJudge`.
    sandbox_workers: see `SandboxJudge`.
    sandbox_cpu_seconds: processor time of a program with all its tests.
    sandbox_memory_mib: address space of a program.

  Raises:
    ValueError: a value out of bounds.
  """
  judge = SandboxJudge(
    tier=sandbox_tier,
    workers=sandbox_workers,
    bounds=limits.Limits(
      cpu_seconds=float(sandbox_cpu_seconds),
      memory_bytes=sandbox_memory_mib * 2**20,
    ),
  )
  return coding.Coding(
    name=name, judge=judge, prompt_style=prompt_style, reading=reading
  )
