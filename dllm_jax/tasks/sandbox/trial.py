"""One program against one test: what is sent where, and what counts.

A pass is a matter of what this process compares (value mode), or of a report
that repeats a secret number (judge mode). Every other ending of the program is
a failure with a reason; an ending of the machinery is none, and raises.
"""

import contextlib
import secrets
import signal
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from dllm_jax.tasks import coding
from dllm_jax.tasks.sandbox import expression, limits, plain, plans, worker

_EXIT_SECONDS = 0.2  # for a child that has said all
_TEST_GRACE = 1.0  # the test's side outlives the program's

_NO_REPORT = 'unsupported: the test writes a report of its own'

_FAILED = object()  # the result of a call that has none


def failed(reason: str, share: float = 0.0) -> coding.Verdict:
  """The program is wrong."""
  return coding.Verdict(False, share, reason)


def unjudged(reason: str) -> coding.Verdict:
  """Nothing is known of the program."""
  return coding.Verdict(None, float('nan'), reason)


@contextlib.contextmanager
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
  try:
    ours, theirs = socket.socketpair()
  except OSError as error:
    raise worker.Lost(f'no socket: {error}') from None
  with ours, theirs:
    yield ours, theirs


def by_values(
  plan: plans.Values,
  code: str,
  solution: worker.Worker,
  bounds: limits.Limits,
) -> coding.Verdict:
  """Value mode.

  Raises:
    worker.Lost: the machinery failed.
  """
  calls = [
    [call.name, plain.encode(list(call.args)), plain.encode(call.kwargs)]
    for call in plan.calls
  ]
  with _pair() as (ours, theirs):
    solution.begin('serve', theirs)
    theirs.close()
    stream = worker.Stream(ours, bounds.wall + _TEST_GRACE)
    results, reason = _results(stream, code, calls)
    ending = solution.ending(stop_after=_EXIT_SECONDS)
  if len(results) < len(calls):
    reason = _reason(ending, reason)
  results += [_FAILED] * (len(calls) - len(results))
  held = [_holds(assertion, results) for assertion in plan.assertions]
  share = sum(held) / len(held)
  if share == 1:
    return coding.Verdict(True, 1.0, '')
  return failed(reason or 'wrong', share)


def _results(
  stream: worker.Stream, code: str, calls: list[Any]
) -> tuple[list[Any], str]:
  """What each call gave, as far as they came, and why the first failed."""
  results: list[Any] = []
  reason = ''
  try:
    if stream.receive() != 'ready':
      raise worker.Lost('a child that is not ready')
  except (EOFError, plain.NotPlain):
    raise worker.Lost('a child that could not be confined') from None
  # Two frames: a long program leaves the calls their room.
  stream.send(code)
  stream.send(calls)
  try:
    loaded = stream.receive()
    if loaded != 'loaded':
      return results, f'load {_field(loaded, "load")}'
    for _ in calls:
      result, why = _result(stream.receive())
      results.append(result)
      reason = reason or why
  except EOFError:
    pass
  except plain.NotPlain:
    reason = 'protocol'
  return results, reason


def _result(reply: Any) -> tuple[Any, str]:
  """A value, or _FAILED and why."""
  if type(reply) is dict and 'v' in reply:
    with contextlib.suppress(plain.NotPlain):
      return plain.decode(reply['v']), ''
    return _FAILED, 'not plain'
  if type(reply) is dict and 'n' in reply:
    return _FAILED, 'not plain'
  return _FAILED, f'error {_field(reply, "e")}'


def _field(reply: Any, name: str) -> str:
  """A name that the program sent, fit for a log."""
  value = reply.get(name) if type(reply) is dict else None
  if type(value) is str and value.isascii() and value.isidentifier():
    return value[:40]
  return 'Exception'


def _reason(ending: worker.Ending, reason: str) -> str:
  """Why a program stopped early.

  Raises:
    worker.Lost: it was killed, and not for a limit of its own: memory ran out,
      or somebody did it. A program cannot: it may send no signals.
  """
  if ending.killed in ('cpu', 'wall'):
    return 'timeout'
  if ending.exit == -signal.SIGKILL and not ending.killed:
    raise worker.Lost('a child was killed from outside')
  if reason:
    return reason
  return 'crash' if ending.exit < 0 else 'exit'


def _holds(assertion: expression.Assertion, results: Sequence[Any]) -> bool:
  if any(results[place] is _FAILED for place in assertion.holes.values()):
    return False
  return expression.holds(assertion, results)


def by_examination(
  plan: plans.Examination,
  code: str,
  solution: worker.Worker,
  examiner: worker.Worker,
  bounds: limits.Limits,
) -> coding.Verdict:
  """Judge mode.

  Raises:
    worker.Lost: the machinery failed.
  """
  nonce = secrets.token_hex(16)
  seconds = bounds.wall + 2 * _TEST_GRACE
  with _pair() as (to_test, test), _pair() as (to_program, program):
    with _pair() as (left, right):
      solution.begin('serve', program, left)
      examiner.begin('examine', test, right, grace=_TEST_GRACE)
    program.close()
    test.close()
    loading = worker.Stream(to_program, seconds)
    stream = worker.Stream(to_test, seconds)
    problem = ''
    try:
      ready = loading.receive() == 'ready' and stream.receive() == 'ready'
    except (EOFError, plain.NotPlain):
      ready = False
    if ready:
      loading.send(code)
      loading.send(None)
      stream.send(plan._asdict() | {'nonce': nonce})
      with contextlib.suppress(EOFError, plain.NotPlain):
        loaded = loading.receive()
        if loaded != 'loaded':
          problem = f'load {_field(loaded, "load")}'
    report = _report(stream, nonce) if ready else None
    test_ending = examiner.ending(stop_after=_EXIT_SECONDS)
    ending = solution.ending(stop_after=_EXIT_SECONDS)
  if not ready:
    raise worker.Lost('a child that could not be confined')
  return _examined(report, problem, ending, test_ending)


def _report(stream: worker.Stream, nonce: str) -> tuple[int, int, str] | None:
  """Tests that passed, all, and why; None for none, or without the number."""
  try:
    report = stream.receive()
  except (EOFError, plain.NotPlain):
    return None
  if type(report) is not dict or report.get('nonce') != nonce:
    return None
  # A test may be hostile too, and knows the number.
  passed, total, reason = map(report.get, ('passed', 'total', 'reason'))
  typed = type(passed) is type(total) is int and type(reason) is str
  if not typed or not 0 <= passed <= total:
    return 0, 0, _NO_REPORT
  reason = ''.join(c if ' ' <= c <= '~' else '?' for c in reason[:200])
  return passed, total, reason


def _examined(
  report: tuple[int, int, str] | None,
  problem: str,
  ending: worker.Ending,
  test_ending: worker.Ending,
) -> coding.Verdict:
  if report is None or test_ending.exit != 0:
    if test_ending.exit == -signal.SIGKILL and not test_ending.killed:
      raise worker.Lost('a test was killed from outside')
    early = ending.killed != 'stop'
    return failed(_reason(ending, problem) if early else 'timeout')
  passed, total, reason = report
  if reason.startswith('unsupported'):
    return unjudged(reason)
  if total and passed == total and not reason:
    return coding.Verdict(True, 1.0, '')
  share = min(passed, total - 1) / total if total else 0.0
  if reason == 'ended':
    return failed(_reason(ending, problem), share)
  return failed(problem or reason, share)
