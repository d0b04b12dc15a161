"""The process that compares mathematical answers; started by `math_equal`.

It is run as a script, so that it imports math-verify and nothing of ours. It
reads a JSON line [gold, prediction, CPU seconds] and answers with one:
[verdict, retire], or {"error": text}. The kernel ends the process, with
SIGPROF, when a question uses up its seconds: no Python code need run for that.
"""

import json
import logging
import os
import resource
import select
import signal
import sys

RELATIVE = 1e-5  # of equal numbers
MAX_MEMORY = 2**30  # bytes of address space
MAX_RESIDENT = 256 * 2**20  # bytes; above it sympy's caches are too large
_IDLE_SECONDS = 2.0  # between looks at whether the parent is still there


def main() -> None:
  """Answers until the parent closes the pipe, or is gone."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
  signal.signal(signal.SIGPROF, signal.SIG_DFL)
  answers = os.fdopen(os.dup(1), 'w')
  with open(os.devnull, 'w') as nowhere:
    os.dup2(nowhere.fileno(), 1)  # what libraries print is no answer
  try:
    compare = _comparison()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
  except Exception as error:
    _send(answers, {'error': f'{type(error).__name__}: {error}'})
    return
  _send(answers, 'ready')
  parent = os.getppid()
  while os.getppid() == parent:
    if not select.select([0], [], [], _IDLE_SECONDS)[0]:
      continue
    line = sys.stdin.buffer.readline()
    if not line:
      return
    gold, prediction, seconds = json.loads(line)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
      verdict = compare(gold, prediction)
    except (Exception, RecursionError, MemoryError):
      verdict = False  # what cannot be read equals nothing
    signal.setitimer(signal.ITIMER_PROF, 0)
    _send(answers, [verdict, _resident() > MAX_RESIDENT])


def _comparison():
  """Whether two texts are the same answer, by math-verify, with no timeouts.

  It drops no words and looks for no number in a text that is not LaTeX.
  """
  logging.disable(logging.CRITICAL)
  import math_verify
  from latex2sympy2_extended import NormalizationConfig
  from math_verify import grader

  grader.sympy_numeric_eq = _near(grader)
  reading = math_verify.LatexExtractionConfig(
    normalization_config=NormalizationConfig(
      basic_latex=True, units=False, malformed_operators=True, nits=True
    )
  )

  def read(text):
    boxed = '\\boxed{' + text + '}'
    return math_verify.parse(boxed, [reading], parsing_timeout=None)

  def compare(gold, prediction):
    return bool(
      math_verify.verify(read(gold), read(prediction), timeout_seconds=None)
    )

  # The first question builds grammars and would pay for them with its seconds.
  for gold, prediction in (('1', '\\frac{2}{2}'), ('x', 'y'), ('(1,2)', '1')):
    compare(gold, prediction)
  return compare


def _near(grader):
  """math-verify's equality of numbers, which is absolute, made relative.

  It rounds to six decimals and takes what is below 2^-55 for zero, so that all
  small numbers are equal.
  """
  absolute = grader.sympy_numeric_eq

  def exact(x):
    return x.xreplace(
      {n: grader.Rational(str(n)) for n in x.atoms(grader.Float)}
    )

  def near(a, b, *precision):
    if not absolute(a, b, *precision):
      return False
    if isinstance(a, grader.MatrixBase) or isinstance(b, grader.MatrixBase):
      return True  # by its elements
    if all(grader.is_atomic_or_pct_atomic(x, grader.Integer) for x in (a, b)):
      return True  # 50% is 50 too
    if a.free_symbols or b.free_symbols:
      return grader.sympy_symbolic_eq(exact(a), exact(b))
    a, b = (grader.safe_sympy_doit(x) for x in (a, b))
    if a == b:
      return True
    a, b = a.evalf(30), b.evalf(30)
    return bool(abs(a - b) <= RELATIVE * max(abs(a), abs(b)))

  return near


def _resident() -> int:
  """Bytes in memory now; 0 where the system does not say.

  `ru_maxrss` is of no use: it starts from the size of the parent.
  """
  try:
    with open('/proc/self/statm') as numbers:
      return int(numbers.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
  except OSError:
    return 0


def _send(answers, message) -> None:
  answers.write(json.dumps(message) + '\n')
  answers.flush()


if __name__ == '__main__':
  main()
