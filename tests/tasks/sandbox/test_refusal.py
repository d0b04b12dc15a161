"""Hosts that lack something, and confinement that leaks."""

import struct
import sys

import pytest

from dllm_jax import errors
from dllm_jax.tasks import coding, sandbox
from dllm_jax.tasks.sandbox import (
  confine,
  filters,
  hosts,
  pool,
  self_test,
  worker,
)
from tests.tasks.sandbox import conftest

# BPF: return SECCOMP_RET_ALLOW.
_ALLOW_ALL = struct.pack('HBBI', 6, 0, 0, 0x7FFF0000).hex()


@pytest.fixture(autouse=True)
def _untested(monkeypatch):
  monkeypatch.setattr(pool, '_tested', set())


@pytest.mark.parametrize('tier', ['auto', *hosts.TIERS])
def test_without_landlock_nothing_runs(monkeypatch, tier):
  monkeypatch.setattr(confine, 'landlock_version', lambda: 0)
  with pytest.raises(sandbox.Refused, match='no landlock: boot with'):
    sandbox.Sandbox(tier=tier)
  assert sandbox.available_tiers() == []


def test_without_libseccomp_nothing_runs(monkeypatch):
  monkeypatch.setitem(sys.modules, 'pyseccomp', None)
  filters.program.cache_clear()
  with pytest.raises(sandbox.Refused, match='install the packages libseccomp2'):
    sandbox.Sandbox()
  filters.program.cache_clear()


def test_elsewhere_than_on_linux_nothing_runs(monkeypatch):
  monkeypatch.setattr(sys, 'platform', 'darwin')
  with pytest.raises(sandbox.Refused, match='on Linux only, this is darwin'):
    sandbox.Sandbox()


def test_without_a_readable_python_nothing_runs(monkeypatch):
  monkeypatch.setattr(hosts, '_FOLDERS', 'raise SystemExit(1)')
  hosts.interpreter.cache_clear()
  with pytest.raises(sandbox.Refused, match='no Python 3.11 or later'):
    sandbox.Sandbox()
  hosts.interpreter.cache_clear()


def test_a_refusal_is_one_line_for_the_user(monkeypatch):
  monkeypatch.setattr(confine, 'landlock_version', lambda: 0)
  with pytest.raises(errors.UserError) as caught:
    sandbox.Sandbox()
  assert '\n' not in str(caught.value)


def test_without_bubblewrap_the_weaker_tier_warns(monkeypatch):
  conftest.skip_without('seccomp')
  hosts._lacks_namespaces.cache_clear()
  monkeypatch.setattr(hosts.shutil, 'which', lambda name: None)
  with pytest.warns(UserWarning, match='install the package bubblewrap'):
    sandbox.Sandbox().close()
  with pytest.raises(sandbox.Refused, match='install the package bubblewrap'):
    sandbox.Sandbox(tier='namespaces')
  hosts._lacks_namespaces.cache_clear()


def test_namespaces_that_do_not_work_give_way(monkeypatch):
  conftest.skip_without('namespaces')
  real = worker.config

  def config(tier, bounds):  # a size that no file system can have
    found = real(tier, bounds)
    return found | {'file_bytes': -1} if tier == 'namespaces' else found

  monkeypatch.setattr(worker, 'config', config)
  with pytest.warns(UserWarning, match='namespaces: infrastructure: a child'):
    with sandbox.Sandbox() as found:
      assert found.tier == 'seccomp'


def test_an_unknown_tier_is_an_error():
  with pytest.raises(ValueError, match='auto, namespaces or seccomp'):
    sandbox.Sandbox(tier='gvisor')


def _broken(monkeypatch, tier, **changes):
  """What the self-test says where a part of the confinement is missing."""
  real = worker.config
  monkeypatch.setattr(worker, 'config', lambda *a: real(*a) | changes)
  with pytest.raises(sandbox.Refused, match='got through') as caught:
    sandbox.Sandbox(tier=tier, workers=1)
  return str(caught.value)


def test_the_self_test_sees_that_system_calls_are_open(monkeypatch, tier):
  found = _broken(monkeypatch, tier, seccomp=_ALLOW_ALL)
  for attack in ('forks', 'opens a local socket', 'queue or shared memory'):
    assert attack in found
  assert 'an equal object' not in found


def test_the_self_test_sees_that_files_are_open(monkeypatch):
  conftest.skip_without('seccomp')
  found = _broken(
    monkeypatch, 'seccomp', readable=['/'], writable=['/dev/null', '/tmp']
  )
  for attack in ('reads a file', 'lists the users', 'writes a file'):
    assert attack in found


class _Judge:
  def __init__(self, passed):
    self._verdict = coding.Verdict(passed, float(bool(passed)), 'down')

  def judge(self, submissions):
    return [self._verdict for _ in submissions]


def test_the_self_test_sees_a_judge_that_believes_everything():
  with pytest.raises(sandbox.Refused, match='exit at import, .*an equal obj'):
    sandbox.self_test.check(_Judge(True))


@pytest.mark.parametrize('passed', [False, None])
def test_the_self_test_sees_a_judge_that_believes_nothing(passed):
  with pytest.raises(sandbox.self_test.Broken, match='down'):
    sandbox.self_test.check(_Judge(passed))


class _Doubtful(_Judge):
  """Right, but for one attack, of which it knows nothing the first times."""

  def __init__(self, times):
    self._times = times

  def judge(self, submissions):
    return [self._one(submission) for submission in submissions]

  def _one(self, submission):
    if 'os.fork()' in submission.code and self._times:
      self._times -= 1
      return coding.Verdict(None, float('nan'), 'infrastructure')
    honest = submission.code in dict(self_test._HONEST.values())
    return coding.Verdict(honest, float(honest), '')


def test_the_self_test_wants_a_verdict_on_each_attack():
  self_test.check(_Doubtful(1))
  with pytest.raises(self_test.Broken, match="'forks' is not judged: infra"):
    self_test.check(_Doubtful(2))


def test_the_self_test_passes_and_runs_once(tier, monkeypatch):
  checked = []
  real = sandbox.self_test.check
  monkeypatch.setattr(
    sandbox.self_test, 'check', lambda judge: checked.append(real(judge))
  )
  for _ in range(2):
    sandbox.Sandbox(tier=tier).close()
  assert checked == [None]


@pytest.mark.parametrize(
  'bounds, why',
  [
    ({'cpu_seconds': 0.0}, 'cpu_seconds must be in'),
    ({'cpu_seconds': 2.0, 'wall_seconds': 1.0}, 'at least cpu_seconds, 2.0'),
    ({'memory_bytes': 10**6}, 'Python needs some'),
    ({'num_files': 3}, 'num_files must be 8 or more: 3'),
  ],
)
def test_limits_are_checked(bounds, why):
  with pytest.raises(ValueError, match=why):
    sandbox.Limits(**bounds)
