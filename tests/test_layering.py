"""Imports point down the layers, and some things are imported nowhere."""

import ast
import pathlib

import pytest

REPO = pathlib.Path(__file__).resolve().parents[1]
RANK = {
  'types': 0,
  'errors': 0,
  'validation': 0,
  'metric_names': 0,
  'ops': 1,
  'runtime': 1,
  'models': 2,
  'decoding': 2,
  'rl': 2,
  'tasks': 2,
  'text': 2,
  'data': 3,
  'state': 3,
  'analysis': 4,
  'hf': 4,
  'rollout': 4,
  'train': 5,
  'eval': 5,
  'model': 6,
  'run': 7,
  'integrations': 7,
  'bench': 8,
}
FORBIDDEN = (
  'tensorflow',
  'torch',
  'transformers',
  'clu',
  'flax.nnx',
  'pickle',
  'cPickle',
  'dill',
  'cloudpickle',
)
# prefix of a module: the only places that may import it
ONLY_IN = {
  'orbax': ('state/arrays.py',),
  'flax.linen': ('models/',),
  'matplotlib': ('analysis/',),
  'lm_eval': ('integrations/lm_eval.py',),
}
# The one module that may import the library it is measured against.
TORCH = 'bench/torch_reference.py'
# Where code is run on purpose, confined.
SANDBOX = 'tasks/sandbox'


def _imports(tree: ast.Module, package: list[str]):
  """Dotted names of all that is imported; `from a import b` gives a.b."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = node.module.split('.') if node.module else []
      if node.level:
        base = package[: len(package) - node.level + 1] + base
      yield from ('.'.join([*base, alias.name]) for alias in node.names)


def _starts(name: str, prefix: str) -> bool:
  return name == prefix or name.startswith(prefix + '.')


def faults(path: str, source: str) -> list[str]:
  """What is wrong with the module at `path`, relative to dllm_jax/."""
  tree = ast.parse(source)
  found = []
  if not ast.get_docstring(tree):
    found.append('has no docstring')
  own = path.split('/')[0].removesuffix('.py')
  if own != '__init__' and own not in RANK:
    found.append(f'{own} has no layer')
  package = ['dllm_jax', *path.split('/')[:-1]]
  for name in _imports(tree, package):
    parts = name.split('.')
    if parts[0] == 'dllm_jax' and len(parts) > 1 and parts[1] != own:
      if RANK.get(parts[1], 99) >= RANK.get(own, 99):
        found.append(f'imports {name}, which is not below it')
    allowed = path == TORCH and _starts(name, 'torch')
    if any(_starts(name, prefix) for prefix in FORBIDDEN) and not allowed:
      found.append(f'imports {name}')
    for prefix, places in ONLY_IN.items():
      if _starts(name, prefix) and not path.startswith(places):
        found.append(f'imports {name}, which is for {places[0]}')
  found += ['reads the wall clock'] * _reads_wall_clock(tree)
  if not path.startswith(SANDBOX):
    found += [f'calls {name}' for name in unsafe_calls(tree)]
  return found


# What runs text as code, or starts a program from text, by any name that a call
# may have. `re.compile` and `jax.jit(...).compile` are harmless.
UNSAFE = frozenset(
  'eval exec compile __import__ breakpoint sympify parse_expr '
  'builtins.eval builtins.exec builtins.compile builtins.__import__ '
  'os.system os.popen subprocess.getoutput subprocess.getstatusoutput '
  'pickle.load pickle.loads pickle.Unpickler marshal.load marshal.loads '
  'yaml.load yaml.unsafe_load yaml.full_load torch.load joblib.load '
  'numpy.load np.load shelve.open sympy.sympify sympy.parse_expr'.split()
)
# Modules that no call need be made of: importing them is the fault.
UNSAFE_IMPORTS = ('pickle', 'marshal', 'shelve', 'yaml', 'sympy')


def unsafe_calls(tree: ast.Module) -> list[str]:
  """Calls that would run text as code; `shell=True` in any call."""
  aliases = {
    alias.asname or alias.name: f'{node.module}.{alias.name}'
    for node in ast.walk(tree)
    if isinstance(node, ast.ImportFrom) and node.module
    for alias in node.names
  }
  found = []
  for node in ast.walk(tree):
    if not isinstance(node, ast.Call):
      continue
    name = ast.unparse(node.func)
    if aliases.get(name, name) in UNSAFE or name in UNSAFE:
      if not (name.endswith('np.load') and _forbids_pickle(node)):
        found.append(f'{name}()')
    for word in node.keywords:
      safe = isinstance(word.value, ast.Constant) and not word.value.value
      if (
        word.arg in ('shell', 'allow_pickle', 'trust_remote_code') and not safe
      ):
        found.append(f'{name}({word.arg}=...)')
  return found


def _forbids_pickle(call: ast.Call) -> bool:
  return any(
    word.arg == 'allow_pickle' and ast.unparse(word.value) == 'False'
    for word in call.keywords
  )


def _reads_wall_clock(tree: ast.Module) -> bool:
  """It jumps: timers are `time.monotonic` or `time.perf_counter`."""
  calls = ('time.time', 'time.time_ns', 'datetime.now', 'datetime.utcnow')
  return any(
    isinstance(node, ast.Attribute) and ast.unparse(node).endswith(calls)
    for node in ast.walk(tree)
  )


def _modules():
  root = REPO / 'dllm_jax'
  return sorted(str(p.relative_to(root)) for p in root.rglob('*.py'))


@pytest.mark.parametrize('path', _modules())
def test_module_keeps_to_its_layer(path):
  source = (REPO / 'dllm_jax' / path).read_text('utf-8')
  assert faults(path, source) == []


@pytest.mark.parametrize('folder', ['dllm_jax', 'launch', 'configs'])
def test_no_text_is_run_as_code(folder):
  """Also what a module of the sandbox must not be given from outside it."""
  for path in (REPO / folder).rglob('*.py'):
    name = str(path.relative_to(REPO))
    if name.startswith(f'dllm_jax/{SANDBOX}'):
      continue
    tree = ast.parse(path.read_text('utf-8'))
    assert unsafe_calls(tree) == [], name
    imported = [
      wanted
      for wanted in _imports(tree, [])
      if any(_starts(wanted, module) for module in UNSAFE_IMPORTS)
      or (folder != 'dllm_jax' and _starts(wanted, 'torch'))
    ]
    assert imported == [], name


@pytest.mark.parametrize(
  'line',
  [
    'eval("1")',
    'import builtins\nbuiltins.exec("1")',
    'compile("1", "", "eval")',
    '__import__("os")',
    'import os\nos.system("ls")',
    'from os import system\nsystem("ls")',
    'from os import popen as p\np("ls")',
    'import subprocess\nsubprocess.run("ls", shell=True)',
    'import subprocess\nsubprocess.Popen("ls", shell=x)',
    'pickle.loads(b"")',
    'marshal.loads(b"")',
    'yaml.load("")',
    'torch.load("x")',
    'sympy.sympify("1")',
    'from sympy import sympify as s\ns("1")',
    'np.load("x")',
    'np.load("x", allow_pickle=True)',
    'from_pretrained("x", trust_remote_code=True)',
  ],
)
def test_the_checker_sees_text_that_is_run(line):
  assert unsafe_calls(ast.parse(line))


@pytest.mark.parametrize(
  'line',
  [
    'import re\nre.compile("a")',
    'jax.jit(f).lower(x).compile()',
    'model.eval()',
    'import subprocess\nsubprocess.run(["ls"], shell=False)',
    'np.load("x", allow_pickle=False)',
    'yaml.safe_load("")',
    'json.load(f)',
    'importlib.import_module("jax")',
  ],
)
def test_the_checker_lets_plain_calls_pass(line):
  assert unsafe_calls(ast.parse(line)) == []


@pytest.mark.parametrize(
  'path, line, fault',
  [
    ('ops/a.py', 'from dllm_jax.rl import losses', 'dllm_jax.rl.losses'),
    ('ops/a.py', 'import dllm_jax.train.loop', 'dllm_jax.train.loop'),
    ('ops/a.py', 'from dllm_jax import analysis', 'dllm_jax.analysis'),
    ('ops/a.py', 'from ..rl import losses', 'dllm_jax.rl.losses'),
    ('ops/a.py', 'from .. import train', 'dllm_jax.train'),
    ('ops/a.py', 'def f():\n  from dllm_jax import state', 'dllm_jax.state'),
    ('decoding/a.py', 'from dllm_jax.models import moe', 'dllm_jax.models'),
    ('nowhere/a.py', 'import math', 'no layer'),
    ('ops/a.py', 'from dllm_jax import nowhere', 'dllm_jax.nowhere'),
    ('state/metrics.py', 'import orbax.checkpoint', 'orbax.checkpoint'),
    ('rl/a.py', 'from flax import linen as nn', 'flax.linen'),
    ('models/a.py', 'from flax import nnx', 'flax.nnx'),
    ('models/a.py', 'import torch.nn', 'torch'),
    ('bench/suites.py', 'import torch', 'torch'),
    ('bench/torch_reference.py', 'import transformers', 'transformers'),
    ('run/a.py', 'from dllm_jax import bench', 'dllm_jax.bench'),
    ('tasks/a.py', 'import pickle', 'pickle'),
    ('tasks/a.py', 'x = eval("1")', 'eval()'),
    ('train/loop.py', 'exec("1")', 'exec()'),
    ('state/a.py', 'x = __import__("os")', '__import__()'),
    ('train/loop.py', 'import time\nx = time.time()', 'wall clock'),
    (
      'train/loop.py',
      'import datetime\nx = datetime.datetime.now',
      'wall clock',
    ),
  ],
)
def test_the_checker_sees(path, line, fault):
  found = faults(path, f'"""A module."""\n{line}\n')
  assert len(found) == 1 and fault in found[0]


@pytest.mark.parametrize(
  'path, line',
  [
    ('bench/torch_reference.py', 'import torch.nn.functional as F'),
    (
      'train/loop.py',
      'from dllm_jax import errors\nfrom dllm_jax.state import metrics',
    ),
    ('ops/a.py', 'from dllm_jax.ops import b\nfrom . import c'),
    ('models/a.py', 'import flax.linen as nn\nfrom dllm_jax import types as T'),
    ('rl/a.py', 'import jax\njax.eval_shape(len)\ntorchlight = 1'),
  ],
)
def test_the_checker_lets_pass(path, line):
  assert faults(path, f'"""A module."""\n{line}\n') == []


def test_the_checker_wants_a_docstring():
  assert faults('ops/a.py', 'x = 1\n') == ['has no docstring']
