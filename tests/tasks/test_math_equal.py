"""Verdicts on mathematical answers: right, bounded, and never lost."""

import concurrent.futures
import contextlib
import gzip
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from dllm_jax import errors
from dllm_jax.tasks import latex, math_equal, mathematics

REPO = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 0.5  # CPU seconds of a question


@pytest.fixture(scope='module')
def pool():
  pool = math_equal.Pool(2, cpu_seconds=LIMIT)
  pool.equal([('1', '2'), ('x', 'y')])
  yield pool
  pool.close()


# (gold, prediction, verdict), as math-verify 0.9.0 has them.
VERDICTS = [
  ('5', '6=5', True),  # the right-hand side counts
  ('5', 'x=5', True),
  ('5', '5=6', False),
  ('50', r'50\%', True),
  ('0.5', r'50\%', True),
  (r'\frac13', '0.333333', True),
  (r'\pi', '3.14', False),
  ('5', '５', False),
  ('5', '٥', False),
  ('5', '5\u200b', False),
  ('-5', '−5', True),  # U+2212
  ('(1,2)', r'\{2,1\}', False),
  ('5', '5 or 6', False),
  ('1000', '1,000', True),
  ('1000', '1.000', False),
  ('5', '1/0', False),
  ('1/0', 'nan', False),
  ('3/2', r'1\frac12', True),
  ('5', r'5 \text{ cm}', False),  # words are for `claims`
  ('5', '5t', False),
  ('2^{-60}', '2^{-61}', False),
  ('2^{-60}', '4^{-30}', True),
  (r'\frac{1}{20!}', r'\frac{1}{21!}', False),
  ('0.0000001', '0.0000002', False),
  ('0.0000001', '10^{-7}', True),
  ('5', r'\text{__import__("os").system("true")}', False),
  ('5', r'\boxed{5}', True),
  ('5', '}5{', False),
  ('5', '5} 4', False),  # would close the box that it is put into
  ('5', '5}{4}{3', False),
  ('5', r'5}\text{ \{', False),
  ('5', '{', False),
  (r'x^2+2x+1', '(x+1)^2', True),
  (r'\text{east}', r'\text{east}', True),
  (r'\left(3, \frac{\pi}{2}\right)', r'(3,\pi/2)', True),
  ('', '', False),
  ('', '5', False),
  (' 5', '5 ', True),
]


def test_verdicts(pool):
  found = pool.equal([(gold, text) for gold, text, _ in VERDICTS])
  wrong = [v for v, f in zip(VERDICTS, found, strict=True) if f != v[2]]
  assert not wrong


# What hangs math-verify or eats its memory, or is just large.
HOSTILE = [
  '9^{9^{9}}',
  '10^{10^{10}}',
  '9^{9^{9^9}}',
  '10^9!',
  '(((9!)!)!)!',
  r'\binom{10^9}{5\cdot 10^8}',
  r'\sum_{i=1}^{10^9} 1/i',
  r'\prod_{i=1}^{10^7} i',
  r'\sqrt[10^6]{2^{999999}+1}',
  r'\log_2(3^{10^8})',
  '(1+x)^{100000}',
  '0.' + '3' * 10**5,
  '{' * 3000,
  '(' * 500,
  ','.join(str(i) for i in range(20000)),
  r'\{' + ','.join(f'x_{{{i}}}' for i in range(60)) + r'\}',
  '1 ' * 50000,
  '100000!',
  r'\frac{1}{' * 300 + '2' + '}' * 300,
  r'\sqrt{' * 200 + '2' + '}' * 200,
  r'\int_0^1 e^{\sin(x^x)} dx',
  r'\boxed{' * 2000,
  '$' * 20001,
  r'\begin{pmatrix}'
  + r'\\'.join('&'.join('1' * 40) for _ in range(40))
  + r'\end{pmatrix}',
  '\0',
  '\ud800',
  '\u202e5',
]


@pytest.mark.parametrize('case', range(len(HOSTILE)))
def test_hostile_answers_are_false_in_bounded_time(pool, case):
  start = time.monotonic()
  assert pool.equal([('5', HOSTILE[case])]) == [False]
  # Wall time of a busy machine; the bound in CPU time is the test below.
  assert time.monotonic() - start < math_equal.WALL_FACTOR * LIMIT + 10
  assert pool.equal([('1/2', '0.50')]) == [True]


def _children_seconds():
  times = os.times()
  return times.children_user + times.children_system


def _seconds(pid):
  fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2]
  user, system = fields.split()[11:13]
  return (int(user) + int(system)) / os.sysconf('SC_CLK_TCK')


def test_a_question_ends_with_its_seconds():
  pool = math_equal.Pool(1, cpu_seconds=LIMIT)
  try:
    pool.equal([('1', '2')])
    (pid,) = pool.pids()
    before, start = _children_seconds(), _seconds(pid)
    assert pool.equal([('5', r'\binom{10^9}{5\cdot 10^8}')]) == [False]
    assert pool.pids() == []
    assert _children_seconds() - before - start < LIMIT + 0.5
    assert pool.equal([('1/2', '0.50')]) == [True]
  finally:
    pool.close()


def _other_worker(monkeypatch, tmp_path, old, new):
  """Workers with another line in their program."""
  text = math_equal._WORKER.read_text()
  assert text.count(old) == 1
  path = tmp_path / 'math_worker.py'
  path.write_text(text.replace(old, new))
  monkeypatch.setattr(math_equal, '_WORKER', path)


@pytest.mark.parametrize(('size', 'verdict'), [(2**28, True), (2**30, False)])
def test_memory_is_bounded(monkeypatch, tmp_path, size, verdict):
  _other_worker(
    monkeypatch,
    tmp_path,
    'return compare',
    f'kept = []; return lambda gold, text: not kept.append(b"1" * {size})',
  )
  pool = math_equal.Pool(1)
  try:
    assert pool.equal([('1', '2')]) == [verdict]
    # A process that has grown is replaced.
    assert (pool.pids() == []) == verdict
  finally:
    pool.close()


def test_a_large_parent_does_not_make_large_workers():
  ballast = b'1' * (400 * 2**20)
  pool = math_equal.Pool(1)
  try:
    pool.equal([('1', '2')])
    before = pool.pids()
    assert len(before) == 1
    assert pool.equal([('1/2', '0.5'), ('1/2', '0.6')]) == [True, False]
    assert pool.pids() == before and len(ballast)
  finally:
    pool.close()


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    ('1' * 2001, 'characters'),
    ('1' * 65, 'digits'),
    ('1' * 64, None),
    ('{' * 51 + '}' * 51, 'nested'),
    ('{}' * 500, None),
    ('2^{10001}', 'exponent'),
    ('2^{-10000}', None),
    ('1001!', 'factorial'),
    ('1000!', None),
    ('2^{3^4}', 'tower'),
    ('x^{2n}', None),
    (',' * 100, 'items'),
    (',' * 99, None),
  ],
)
def test_bounds(text, reason):
  found = math_equal.refused(text)
  assert (reason in found) if reason else found is None


def test_many_threads(pool):
  """Sixteen threads, each with right, wrong and hostile questions."""
  pairs = [('1/2', '0.5'), ('1/2', '0.6'), ('5', r'\log_2(3^{10^4})')]
  pairs += [(str(i), f'{i}.0') for i in range(20)]
  with concurrent.futures.ThreadPoolExecutor(16) as threads:
    found = list(threads.map(lambda _: pool.equal(pairs), range(16)))
  assert all(f == found[0] for f in found)
  assert found[0][:2] == [True, False] and found[0][3:] == [True] * 20
  assert len(pool.pids()) <= 2


PROCESS = """
import concurrent.futures, json, sys
from dllm_jax.tasks import math_equal
pairs = json.load(sys.stdin)
pool = math_equal.Pool(2, cpu_seconds=0.5)
pool.equal([('1', '2'), ('x', 'y')])
with concurrent.futures.ThreadPoolExecutor(16) as threads:
  found = list(threads.map(lambda i: pool.equal(pairs[i::16]), range(16)))
pool.close()
print(json.dumps(found))
"""


def test_many_threads_of_several_processes():
  """The whole hostile list among plain questions; every verdict is right.

  Two processes of sixteen threads, which ask a sixteenth each.
  """
  pairs = [('5', text) for text in HOSTILE if text != '\ud800']
  pairs += [(str(i), f'{i + i % 2}.0') for i in range(20)]
  want = [False] * (len(HOSTILE) - 1) + [True, False] * 10
  started = [
    subprocess.Popen(
      [sys.executable, '-c', PROCESS],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      cwd=REPO,
    )
    for _ in range(2)
  ]
  with concurrent.futures.ThreadPoolExecutor() as threads:
    told = [
      threads.submit(p.communicate, json.dumps(pairs).encode()) for p in started
    ]
    found = [json.loads(t.result()[0]) for t in told]
  assert found == [[want[i::16] for i in range(16)]] * 2


def test_order_and_duplicates(pool):
  pairs = [('1', '1'), ('2', '3'), ('1', '1'), ('2', '2.0'), ('2', '3')]
  assert pool.equal(pairs) == [True, False, True, True, False]
  assert pool.equal([]) == []


def test_verdicts_are_kept():
  pool = math_equal.Pool(1)
  assert pool.equal([('1/2', '0.5')]) == [True]
  pool.close()
  # No thread and no process is left to ask.
  assert pool.equal([('1/2', '0.5')]) == [True] and pool.pids() == []


def test_a_worker_killed_while_idle_is_replaced(pool):
  for pid in pool.pids():
    os.kill(pid, signal.SIGKILL)
  assert pool.equal([('3/4', '0.75'), ('3/4', '0.76')]) == [True, False]


def test_a_worker_that_is_lost_twice_is_no_verdict(monkeypatch):
  pool = math_equal.Pool(1)

  def lose(gold, prediction):
    raise math_equal.Lost

  try:
    with monkeypatch.context() as patch:
      patch.setattr(pool._workers[0], 'ask', lose)
      assert pool.equal([('3/8', '0.375'), ('4', '4')]) == [None, True]
    assert pool.equal([('3/8', '0.375')]) == [True]  # and is not kept
  finally:
    pool.close()


def test_ctrl_c_does_not_wait_for_the_rest(monkeypatch):
  pool = math_equal.Pool(1)
  asked, go_on = [], threading.Event()

  def ask(gold, prediction):
    asked.append(gold)
    if gold == '0':
      raise KeyboardInterrupt
    assert go_on.wait(60)
    return True

  try:
    monkeypatch.setattr(pool._workers[0], 'ask', ask)
    with pytest.raises(KeyboardInterrupt):
      pool.equal([(str(i), 'x') for i in range(50)])
    go_on.set()
  finally:
    pool._threads.shutdown()
    pool.close()
  assert asked[0] == '0' and len(asked) <= 2


def test_a_stopped_worker_is_lost():
  """One that neither answers nor computes: only wall time ends it."""
  pool = math_equal.Pool(1, cpu_seconds=0.1)
  try:
    pool.equal([('1', '2')])
    with concurrent.futures.ThreadPoolExecutor() as threads:
      (pid,) = pool.pids()
      os.kill(pid, signal.SIGSTOP)
      asked = threads.submit(pool.equal, [('3/8', '0.375')])
      assert asked.result(60) == [True]  # by the one that came after it
      assert pool.pids() != [pid]
  finally:
    pool.close()


def _alive(pid):
  with contextlib.suppress(FileNotFoundError):
    text = pathlib.Path(f'/proc/{pid}/stat').read_text()
    return text.rpartition(')')[2].split()[0] != 'Z'
  return False


def test_no_orphans():
  """Workers of a process that is killed end by themselves."""
  program = textwrap.dedent("""
    import time
    from dllm_jax.tasks import math_equal
    pool = math_equal.Pool(2)
    pool.equal([('1/2', '0.5'), ('1/2', '0.6'), ('1/3', '0.4')])
    print(*pool.pids(), flush=True)
    time.sleep(600)
  """)
  with subprocess.Popen(
    [sys.executable, '-c', program], stdout=subprocess.PIPE, cwd=REPO
  ) as parent:
    try:
      pids = [int(p) for p in parent.stdout.readline().split()]
    finally:
      parent.kill()
  assert pids
  deadline = time.monotonic() + 30
  while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not any(_alive(pid) for pid in pids)


def test_a_worker_imports_neither_jax_nor_the_package():
  program = (
    'import runpy, sys; sys.stdin.close(); '
    f'runpy.run_path({str(math_equal._WORKER)!r})["_comparison"](); '
    'print([m for m in sys.modules if m.split(".")[0] in '
    '("jax", "jaxlib", "numpy", "dllm_jax")])'
  )
  done = subprocess.run(
    [sys.executable, '-P', '-c', program],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == '[]\n'


def test_without_the_package_one_line(monkeypatch):
  monkeypatch.setattr(math_equal.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.UserError, match='pip install math-verify'):
    math_equal.Pool(1)


def test_a_worker_that_cannot_start_says_why(monkeypatch, tmp_path):
  _other_worker(monkeypatch, tmp_path, 'import math_verify', 'import nope_')
  pool = math_equal.Pool(1)
  with pytest.raises(errors.UserError, match="No module named 'nope_'"):
    pool.equal([('1', '2')])
  pool.close()


def gold_pairs(shared_dir):
  """500 pairs of real answers: half the same one in another form."""
  folder = shared_dir / 'data' / 'math'
  with gzip.open(folder / 'math_train7500.jsonl.gz', 'rt') as lines:
    golds = [json.loads(line)['answer'] for line in lines]
  golds = [gold for gold in golds if gold][:500]
  forms = (r'{}\,', r'\left({}\right)', 'x = {}', r'{}\;', '0 + {}')
  pairs = []
  for i, gold in enumerate(golds):
    same = forms[i % len(forms)].format(gold)
    pairs.append((gold, same if i % 2 else golds[i - 1]))
  return pairs


@pytest.mark.slow
def test_agrees_with_math_verify(shared_dir):
  import math_verify

  read = lambda text: math_verify.parse('\\boxed{' + text + '}')
  pairs = gold_pairs(shared_dir)
  expected = [math_verify.verify(read(g), read(p)) for g, p in pairs]
  pool = math_equal.Pool(2)
  found = pool.equal(pairs)
  pool.close()
  different = [
    pair
    for pair, f, e in zip(pairs, found, expected, strict=True)
    if f != e and pair[0] != pair[1]
  ]
  assert len(pairs) == 500 and sum(expected) > 150
  assert len(different) <= 2, different


@pytest.mark.slow
def test_the_task_agrees_with_math_verify(shared_dir):
  """Gold answers of MATH-500 as a model writes them; our rules on top."""
  import math_verify

  path = shared_dir / 'data' / 'math' / 'math500_test.jsonl'
  golds = [json.loads(x)['answer'] for x in path.read_text().splitlines()]
  forms = ('{}', '${}$', r'\boxed{{{}}}', r'{}\,', 'x = {}')
  answers = [
    (forms[i % 5] if '=' not in gold else '{}').format(gold)
    if i % 3
    else golds[i - 1]
    for i, gold in enumerate(golds)
  ]
  read = lambda text: math_verify.parse('\\boxed{' + text + '}')
  bare = lambda text: latex.answer_text(text).strip('$')
  expected = [
    gold == bare(text) or math_verify.verify(read(gold), read(bare(text)))
    for gold, text in zip(golds, answers, strict=True)
  ]
  rows = [
    {'id': 'a', 'problem': '', 'solution': '', 'answer': g} for g in golds
  ]
  texts = [f'<answer>\n{text}\n</answer>' for text in answers]
  found = mathematics.Mathematics().score_batch(rows, texts)
  different = [
    (gold, text)
    for gold, text, f, e in zip(golds, answers, found, expected, strict=True)
    if f.correct != e
  ]
  assert len(golds) == 500 and 250 < sum(expected) < 450
  assert all(f.judged for f in found)
  assert len(different) <= 2, different
